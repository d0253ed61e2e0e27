"""Keys do not grow old: sessions are replaced by time and when the certificate behind them changes.

A new session is opened beside the old one and takes over when it stands; answers to what was sent in the old
one are still read, so no request notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from busmesh.actors.actor import Actor
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.inbound.inbound import Inbound

#: A session is replaced after so many seconds, give or take a tenth, so that not all are at once.
REKEY_S = 3600.0
#: The accepting side forgets a session when its caller must have replaced it.
FORGET_S = 2 * REKEY_S


class RekeyAll:
    """The SVID was renewed."""


class Rekeying(Actor[RekeyAll]):
    """Looks after the age of sessions.

    Args:
        upstreams: the sessions that this agent opened.
        inbound: those that it accepted, if it serves.
        renew: opens a new session to an endpoint.
        rng: spreads the renewals.
    """

    interval = 5.0
    capacity = 16

    def __init__(
        self,
        upstreams: Upstreams,
        inbound: Inbound | None,
        renew: Callable[[Endpoint], None],
        rng: Random,
    ) -> None:
        super().__init__("rekeying")
        self._upstreams = upstreams
        self._inbound = inbound
        self._renew = renew
        self._rng = rng

    async def receive(self, message: RekeyAll) -> None:
        for endpoint in self._upstreams.endpoints():
            if endpoint.session is not None:
                self._renew(endpoint)

    async def tick(self) -> None:
        for endpoint in self._upstreams.endpoints():
            session = endpoint.session
            age_ms = 0 if session is None else session.now_ms(time.monotonic())
            if age_ms > REKEY_S * 1000 * self._rng.uniform(0.9, 1.0):
                self._renew(endpoint)
        if self._inbound is not None:
            self._inbound.forget_sessions(time.monotonic() - FORGET_S)

"""The instances that this agent may send to, as the request path sees them.

The member actor brings in what it learns. An instance counts as usable when it is announced healthy, not
draining, not suspected, and a session with it stands.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Mapping
from itertools import islice

from busmesh.decide.balance import Figures
from busmesh.names import ServiceName
from busmesh.telemetry.series import RequestMetrics
from busmesh.wire.frame import Session


class Endpoint:
    """One instance as this caller sees it: what it announced, and what this caller has in flight there.

    Attributes:
        ready: announced as healthy and not draining.
        leaving: announced as draining: not even in panic does it get anything.
        suspect: this caller got no sign of life on its own requests; a fresh announcement clears it.
        revoked: what it proved itself by counts no more; an announcement by another certificate clears it.
        active: requests in flight there, from this agent.
        figures: what this agent measured of it, and what it reported of its load.
        since: when it became known (monotonic seconds); -inf if it was there when its service was first asked
            for.
        last_round: when a round of questions to it began (monotonic seconds); ``questions`` were asked in it.
        unanswered: rounds in a row without any answer.
    """

    __slots__ = (
        "active",
        "figures",
        "incarnation",
        "instance",
        "labels",
        "last_round",
        "leaving",
        "locality",
        "metrics",
        "questions",
        "ready",
        "revoked",
        "service",
        "session",
        "since",
        "suspect",
        "unanswered",
        "version",
        "weight",
    )

    def __init__(self, service: ServiceName, instance: str) -> None:
        self.service = service
        self.instance = instance
        self.incarnation = 0
        self.labels: Mapping[str, str] = {}
        self.version = ""
        self.locality = ""
        self.weight = 100
        self.since = -math.inf
        self.figures = Figures(time.monotonic())
        self.ready = self.leaving = False
        self.suspect = self.revoked = False
        self.session: Session | None = None
        self.active = 0
        self.unanswered = 0
        self.last_round = 0.0
        self.questions = 0
        #: By route name; filled at first use.
        self.metrics: dict[str, RequestMetrics] = {}

    @property
    def usable(self) -> bool:
        return self.ready and not self.suspect and self.session is not None

    @property
    def reachable(self) -> bool:
        return self.session is not None

    @property
    def state(self) -> str:
        if self.revoked:
            return "revoked"
        if not self.ready:
            return "draining" if self.leaving else "not ready"
        if self.suspect:
            return "suspect"
        return "usable" if self.session is not None else "no session"

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.instance} {self.state} active={self.active}>"


class Knowledge(enum.Enum):
    """How far the discovery of a service has come."""

    ASKING = "asking"  # asked, no answer yet
    KNOWN = "known"


class Upstream:
    """One service that this agent calls.

    Attributes:
        settled: its instances were known once; who comes later is new.
    """

    def __init__(self, service: ServiceName) -> None:
        self.service = service
        self.settled = False
        self.knowledge = Knowledge.ASKING
        self.endpoints: dict[str, Endpoint] = {}

    @property
    def pending(self) -> bool:
        """True while waiting may help: discovery or a first session is under way."""
        if self.knowledge is Knowledge.ASKING:
            return True
        return any(e.ready and not e.suspect and e.session is None for e in self.endpoints.values())

    def states(self, held: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None) -> str:
        """Return the state of the first five instances, for a message; empty if there is none.

        Args:
            held: what a destination holds against some of them.
            labels: only of those that have them: another subset's instances explain nothing.
        """
        held, wanted = held or {}, (labels or {}).items()
        meant = (e for e in self.endpoints.values() if wanted <= e.labels.items())
        return ", ".join(
            f"{e.instance}: {held.get(e.instance, e.state) if e.usable else e.state}"
            for e in islice(meant, 5)
        )

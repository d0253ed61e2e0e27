"""The accepting side of sessions: handshakes of whoever can prove to be a workload of this mesh.

Whoever accepts pays for public-key work, so it is bounded per second and in how many are half-way.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

import msgpack

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, RemoteProtocolError
from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.names import SpiffeId, Subjects
from busmesh.relay.replies import Replies
from busmesh.relay.session.handshakes import pack, unpack, worker_of
from busmesh.telemetry.tally import Tally
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

#: Each holds about 60 KiB in OpenSSL. At the rate below so many come in 0.85 s; an honest caller's second
#: message is here within one round trip.
HALF_WAY_MAX = 256
HALF_WAY_S = 5.0
#: Handshakes begun per second; a handshake costs the accepting side about 0.7 ms.
NEW_PER_S = 300


def _begins_tls(data: bytes) -> bool:
    """Say whether ``data`` is one TLS record that holds a ClientHello (RFC 8446 sections 4 and 5.1)."""
    return (
        data[:2] == b"\x16\x03"
        and data[5:6] == b"\x01"
        and int.from_bytes(data[3:5]) == len(data) - 5
        and int.from_bytes(data[6:9]) == len(data) - 9
    )


def _is_workload(peer: SpiffeId) -> bool:
    return peer.service is not None


class Acceptor:
    """The accepting side.

    Args:
        bus: the connection to answer on.
        subjects: the mesh's subjects.
        identity: this instance's.
        accept: gets each new session and the fingerprint of the peer's certificate.
        worker: which process of this agent it is.

    Attributes:
        mine: says by its id whether a handshake is for this process, where an agent has several; the
            first byte of the id is the lot that the caller drew.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        identity: Identity,
        accept: Callable[[Session, str], None],
        worker: int = 0,
    ) -> None:
        self._worker = worker
        self.mine: Callable[[bytes], bool] | None = None
        self._bus = bus
        self._subjects = subjects
        self._identity = identity
        self._accept = accept
        self._inboxes = Replies(subjects.root, "inbox", identity.id.instance)
        self._half_way: OrderedDict[bytes, tuple[Handshake, float]] = OrderedDict()
        self._tally = Tally(log, "handshakes")
        self._second = 0
        self._begun = 0
        self.completed = 0
        self.refused = 0

    def on_message(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on this instance's session subject."""
        to = self._inboxes.to(reply)
        if to is None:
            self.refused += 1  # an answer there would go to somebody who did not ask
            return
        try:
            identifier, data = unpack(payload)
        except RemoteProtocolError as error:
            self.refused += 1
            self._tally.add(error)
            return
        answer = self._step(identifier, data)
        if answer and self._bus.connected:
            self._bus.publish(to.decode("ascii"), pack(identifier, answer))

    def _step(self, identifier: bytes, data: bytes) -> bytes:
        """Bring one handshake forward; return what to send back, if anything."""
        now = time.monotonic()
        known = self._half_way.pop(identifier, None)
        if known is None:
            if self.mine is not None and not self.mine(identifier):
                return b""
            # What is no ClientHello is refused before it counts: junk must not use up what newcomers need.
            if not _begins_tls(data) or not self._admit(now):
                self.refused += 1
                return b""
            handshake = Handshake.server(self._identity.tls, _is_workload)
        else:
            handshake = known[0]
        try:
            answer = handshake.feed(data, time.time())
        except BusmeshError as error:
            self.refused += 1
            self._tally.add(error)
            return handshake.alert  # so that an honest peer fails at once instead of waiting
        if not handshake.done:
            self._half_way[identifier] = (handshake, now)
            return answer
        # Random: a number tells nothing about how many there are, and two lives of an agent share none.
        number = secrets.randbits(62) + 1
        try:
            at = worker_of(handshake.read())
        except BusmeshError as error:
            self.refused += 1
            self._tally.add(error)
            return b""
        peer, keys = handshake.peer, handshake.keys
        session = Session(
            number,
            peer.id,
            send=(keys.server_key, keys.server_iv),
            receive=(keys.client_key, keys.client_iv),
            started=now,
            fingerprint=peer.fingerprint,
            worker=at,
        )
        self._accept(session, peer.fingerprint)
        self.completed += 1
        parameters = {"session": number}
        if self._worker:
            parameters["worker"] = self._worker
        return answer + handshake.write(msgpack.packb(parameters))

    def _admit(self, now: float) -> bool:
        """Bound the public-key work that strangers can cause."""
        while self._half_way:
            _, since = next(iter(self._half_way.values()))
            if now - since < HALF_WAY_S and len(self._half_way) < HALF_WAY_MAX:
                break
            self._half_way.popitem(last=False)
        if int(now) != self._second:
            self._second, self._begun = int(now), 0
        self._begun += 1
        return self._begun <= NEW_PER_S

    def statistics(self) -> dict[str, int]:
        return {"half_way": len(self._half_way), "completed": self.completed, "refused": self.refused}

"""Sessions come about here: TLS handshakes whose messages travel over the bus.

Two questions and two answers on ``session.<instance>``: the caller's ClientHello, answered by the server's
flight; the caller's certificate and Finished, answered by the session's number, written inside TLS. Whoever
accepts pays for public-key work, so it is bounded per second and in how many are half-way.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgpack

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, RemoteProtocolError
from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.names import MAX_WORKERS, ServiceName, SpiffeId, Subjects
from busmesh.relay.replies import answerable
from busmesh.relay.tally import Tally
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

VERSION = 1
MAX_MESSAGE = 32 * 1024
HALF_WAY_MAX = 512
HALF_WAY_S = 5.0
#: Handshakes begun per second; a handshake costs the accepting side about 0.7 ms.
NEW_PER_S = 300
STEP_TIMEOUT_S = 1.0
#: Between two tries to open a session; each pause is twice the one before.
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0


def _pack(identifier: bytes, data: bytes) -> bytes:
    return msgpack.packb([VERSION, identifier, data])  # type: ignore[no-any-return]


def _unpack(message: bytes) -> tuple[bytes, bytes]:
    """Read (handshake id, TLS bytes).

    Raises:
        RemoteProtocolError: anything else.
    """
    if len(message) > MAX_MESSAGE:
        raise RemoteProtocolError("a handshake message of too many bytes", code="BM4301")
    try:
        fields: Any = msgpack.unpackb(message)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(
            f"a handshake message that cannot be read: {type(error).__name__}"
        ) from None
    match fields:
        case [int(version), bytes(identifier), bytes(data)]:
            if version != VERSION:
                raise RemoteProtocolError(
                    f"a handshake of version {version}; this agent speaks {VERSION}", code="BM4302"
                )
            if len(identifier) != 16:
                raise RemoteProtocolError("a handshake without an id", code="BM4301")
            return identifier, data
    raise RemoteProtocolError("a handshake message that cannot be read", code="BM4301")


async def open_session(
    bus: Bus, subjects: Subjects, identity: Identity, service: ServiceName, instance: str, worker: int = 0
) -> Session:
    """Shake hands with an instance; it must prove to be exactly that instance of that service.

    Args:
        worker: which process of this agent asks; the answers to its requests go there.

    Raises:
        BusmeshError: nobody listens, no answer in time, or the proof fails.
    """
    expected = SpiffeId.workload(subjects.mesh, service, instance)
    handshake = Handshake.client(identity.tls, expected)
    identifier = _lot(identity.id, instance, worker) + secrets.token_bytes(15)
    subject = subjects.session(instance)
    data = handshake.feed(b"", time.time())
    for _ in range(2):
        asked = time.monotonic()
        answer = await bus.request(subject, _pack(identifier, data), timeout=STEP_TIMEOUT_S)
        echoed, incoming = _unpack(answer.payload)
        if echoed != identifier:
            raise RemoteProtocolError("an answer to another handshake", code="BM4301")
        data = handshake.feed(incoming, time.time())
        if worker and data and handshake.done:
            data += handshake.write(msgpack.packb({"worker": worker}))
    if not handshake.done:
        raise RemoteProtocolError(f"the handshake with {instance} did not come to its end", code="BM4303")
    number, holder = _session_number(handshake.read())
    keys = handshake.keys
    return Session(
        number,
        handshake.peer.id,
        send=(keys.client_key, keys.client_iv),
        receive=(keys.server_key, keys.server_iv),
        started=asked,
        fingerprint=handshake.peer.fingerprint,
        worker=holder,
    )


def _lot(caller: SpiffeId, instance: str, worker: int) -> bytes:
    """Return the byte by which an instance of several workers knows which of them is to accept.

    The workers of one caller get different ones, so that they use all of the instance's; where that begins
    differs by caller, so that callers of one worker spread as well.
    """
    return bytes([zlib.crc32(f"{caller} {instance}".encode()) + worker & 0xFF])


def _session_number(parameters: bytes) -> tuple[int, int]:
    """Read (session number, worker that holds it)."""
    try:
        fields: Any = msgpack.unpackb(parameters[:256])
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"session parameters that cannot be read: {type(error).__name__}") from None
    match fields:
        case {"session": int(number), "worker": int(worker)} if (
            0 < number < 1 << 63 and 0 <= worker < MAX_WORKERS
        ):
            return number, worker
        case {"session": int(number)} if 0 < number < 1 << 63:
            return number, 0
    raise RemoteProtocolError("session parameters without a number", code="BM4301")


def _worker_of(parameters: bytes) -> int:
    """Read which of its processes a caller wants its answers at; most say nothing.

    Raises:
        RemoteProtocolError: what no agent writes.
    """
    if not parameters:
        return 0
    try:
        fields: Any = msgpack.unpackb(parameters[:256])
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise RemoteProtocolError(f"session parameters that cannot be read: {type(error).__name__}") from None
    match fields:
        case {"worker": int(worker)} if 0 <= worker < MAX_WORKERS:
            return worker
    raise RemoteProtocolError("session parameters of a worker that cannot be", code="BM4301")


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
        self._inboxes = answerable(subjects.root, "inbox")
        self._half_way: OrderedDict[bytes, tuple[Handshake, float]] = OrderedDict()
        self._tally = Tally(log, "handshakes")
        self._second = 0
        self._begun = 0
        self.completed = 0
        self.refused = 0

    def on_message(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on this instance's session subject."""
        if self._inboxes.fullmatch(reply) is None:
            self.refused += 1  # an answer there would go to somebody who did not ask
            return
        try:
            identifier, data = _unpack(payload)
        except RemoteProtocolError as error:
            self.refused += 1
            self._tally.add(error)
            return
        answer = self._step(identifier, data)
        if answer and self._bus.connected:
            self._bus.publish(reply.decode("ascii"), _pack(identifier, answer))

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
            at = _worker_of(handshake.read())
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


class Sessions:
    """Opens sessions to endpoints in the background, again and again until they stand.

    Args:
        open_one: shakes hands with one instance.
        opened: gets (key, session) for each session that stands.
    """

    def __init__(
        self,
        open_one: Callable[[ServiceName, str], Any],
        opened: Callable[[ServiceName, str, Session], None],
    ) -> None:
        self._open_one = open_one
        self._opened = opened
        self._opening: dict[tuple[ServiceName, str], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.failures = 0

    def want(self, service: ServiceName, instance: str) -> None:
        """Begin a handshake unless one is under way."""
        key = (service, instance)
        if key not in self._opening:
            task = asyncio.get_running_loop().create_task(self._open(service, instance))
            self._opening[key] = task

    def unwant(self, service: ServiceName, instance: str) -> None:
        task = self._opening.pop((service, instance), None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _open(self, service: ServiceName, instance: str) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                session = await self._open_one(service, instance)
            except BusmeshError as error:
                log.info("no session with %s of %s yet: %s", instance, service, error)
            except Exception:
                log.exception("a handshake with %s of %s failed by a fault of the agent", instance, service)
            else:
                del self._opening[service, instance]
                self._opened(service, instance, session)
                return
            self.failures += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)

    async def stop(self) -> None:
        tasks = [*self._opening.values(), *self._ending]
        self._opening.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def statistics(self) -> dict[str, int]:
        return {"opening": len(self._opening), "failures": self.failures}

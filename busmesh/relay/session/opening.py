"""The caller's side of sessions: shaking hands with an instance, again and again until a session stands."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgpack

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, RemoteProtocolError
from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.relay.session.handshakes import lot, number_of, pack, unpack
from busmesh.telemetry.repeats import Repeats
from busmesh.wire.frame import Session

log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 1.0
#: Between two tries to open a session; each pause is twice the one before.
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0
#: The same failure is told again after this, and then less and less often.
SAID_AGAIN_S = 5.0


async def open_session(
    bus: Bus,
    subjects: Subjects,
    identity: Identity,
    service: ServiceName,
    instance: str,
    worker: int = 0,
    *,
    shift: int = 0,
) -> Session:
    """Shake hands with an instance; it must prove to be exactly that instance of that service.

    Args:
        worker: which process of this agent asks; the answers to its requests go there.
        shift: by how many to pass over the processes of the instance: one that hangs answers no handshake.

    Raises:
        BusmeshError: nobody listens, no answer in time, or the proof fails.
    """
    expected = SpiffeId.workload(subjects.mesh, service, instance)
    handshake = Handshake.client(identity.tls, expected)
    identifier = bytes([lot(identity.id, instance, worker + shift)]) + secrets.token_bytes(15)
    subject = subjects.session(instance)
    data = handshake.feed(b"", time.time())
    for _ in range(2):
        asked = time.monotonic()
        answer = await bus.request(subject, pack(identifier, data), timeout=STEP_TIMEOUT_S)
        echoed, incoming = unpack(answer.payload)
        if echoed != identifier:
            raise RemoteProtocolError("an answer to another handshake", code="BM4301")
        data = handshake.feed(incoming, time.time())
        if worker and data and handshake.done:
            data += handshake.write(msgpack.packb({"worker": worker}))
    if not handshake.done:
        raise RemoteProtocolError(f"the handshake with {instance} did not come to its end", code="BM4303")
    number, holder = number_of(handshake.read())
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


class Sessions:
    """Opens sessions to endpoints in the background, again and again until they stand.

    Args:
        open_one: shakes hands with one instance, told by how many of its processes to pass over.
        opened: gets (key, session) for each session that stands.
    """

    def __init__(
        self,
        open_one: Callable[[ServiceName, str, int], Any],
        opened: Callable[[ServiceName, str, Session], None],
    ) -> None:
        self._open_one = open_one
        self._opened = opened
        self._opening: dict[tuple[ServiceName, str], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.failures = 0

    def want(self, service: ServiceName, instance: str, shift: int = 0) -> None:
        """Begin a handshake unless one is under way.

        Args:
            service: of the instance.
            instance: its name.
            shift: by how many of its processes to pass over at first; each try passes over one more.
        """
        key = (service, instance)
        if key not in self._opening:
            task = asyncio.get_running_loop().create_task(self._open(service, instance, shift))
            self._opening[key] = task

    def unwant(self, service: ServiceName, instance: str) -> None:
        task = self._opening.pop((service, instance), None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _open(self, service: ServiceName, instance: str, shift: int) -> None:
        pause, repeats = FIRST_PAUSE_S, Repeats(SAID_AGAIN_S)
        while True:
            try:
                session = await self._open_one(service, instance, shift)
            except BusmeshError as error:
                if repeats.worth(error, time.monotonic()):
                    log.info("no session with %s of %s yet: %s", instance, service, error)
            except Exception:
                log.exception("a handshake with %s of %s failed by a fault of the agent", instance, service)
            else:
                del self._opening[service, instance]
                self._opened(service, instance, session)
                return
            self.failures += 1
            shift += 1
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

"""A true agent's side of a handshake with the instance, over a bus where somebody changes what passes."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from busmesh.identity.handshake import Handshake, TlsContext
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, SpiffeId
from busmesh.relay.session.handshakes import number_of, pack, unpack
from tests.security.rogue import Rogue
from tests.threats.stage import MESH, Stage

INBOX = "busmesh.local.inbox.rogue.1"
ORDERS = SpiffeId.workload(MESH, ServiceName("orders"), "orders-0")
#: What becomes of bytes on their way.
Change = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    return data


class Talker:
    """Shakes hands with the instance as an agent does.

    Attributes:
        last: the last answer.
    """

    def __init__(self, stage: Stage, rogue: Rogue, answers: queue.Queue[bytes]) -> None:
        self._bundle = Home(stage.mesh.home).trust(MESH)
        self._rogue = rogue
        self._answers = answers
        self.last = b""

    def shake(
        self, svid: Svid, out: Change = same, back: Change = same, envelope: Change = same
    ) -> Handshake:
        """Return a complete handshake.

        Args:
            svid: whose side it is.
            out: what becomes of the first flight.
            back: what becomes of the answer to that.
            envelope: what becomes of the message around the first flight.

        Raises:
            BusmeshError: it failed on this side.
            queue.Empty: there was no answer.
        """
        client = Handshake.client(TlsContext(svid, Verifier(self._bundle)), ORDERS)
        answer, identifier = client.feed(b"", time.time()), secrets.token_bytes(16)
        self._ask(envelope(pack(identifier, out(answer))))
        answer = client.feed(back(self._answer()), time.time())
        self._ask(pack(identifier, answer))
        client.feed(self._answer(), time.time())
        number_of(client.read())
        return client

    def _ask(self, message: bytes) -> None:
        self._rogue.publish("busmesh.local.session.orders-0", message, reply=INBOX.encode())

    def _answer(self) -> bytes:
        self.last = unpack(self._answers.get(timeout=0.3))[1]
        return self.last


@contextmanager
def talking(stage: Stage) -> Iterator[Talker]:
    answers: queue.Queue[bytes] = queue.Queue()
    with Rogue(stage.bus.port, f"{INBOX}.>", lambda *message: answers.put(message[3])) as rogue:
        yield Talker(stage, rogue, answers)

"""Another agent that holds a session and may be hostile."""

from __future__ import annotations

from busmesh.names import ServiceName, SpiffeId
from busmesh.wire.frame import Kind, Session, read_header
from busmesh.wire.http import decode_refusal, encode_request
from busmesh.wire.stream import Opening, encode_data, encode_end, encode_opening
from tests.relay.world import Instance, Message, World

REPLY = b"busmesh.local.reply.shop-1.0._77"


class Peer:
    """Another agent that holds a session, and may be hostile: it seals what the test says."""

    def __init__(self, world: World, instance: Instance, name: str = "evil-1") -> None:
        self.world = world
        self.instance = instance
        self.id = SpiffeId.workload("local", ServiceName("evil"), name)
        keys = [(world.rng.randbytes(32), world.rng.randbytes(12)) for _ in range(2)]
        self.number = world.rng.getrandbits(62) + 1
        started = world.clock.now
        instance.inbound.add_session(
            Session(self.number, self.id, send=keys[1], receive=keys[0], started=started), "print"
        )
        self.session = Session(self.number, instance.id, send=keys[0], receive=keys[1], started=started)

    def send(self, kind: int, stream: int, plaintext: bytes, reply: bytes = REPLY) -> Message:
        frame = self.session.seal(kind, stream, plaintext)
        message = Message(self.world.subjects.relay(self.instance.name).encode(), reply, frame)
        self.world.bus.deliver(message)
        return message

    def ask(
        self, stream: int = 1, *, target: bytes = b"/", headers: bytes = b"Host: a\r\n", ms: int = 5000
    ) -> Message:
        deadline = max(0, self.session.now_ms(self.world.clock.now) + ms)
        return self.send(Kind.REQUEST, stream, encode_request(deadline, 0, b"POST", target, headers, b""))

    def open(
        self, opening: Opening, body: bytes = b"", stream: int = 1, *, method: bytes = b"POST", ms: int = 5000
    ) -> Message:
        """Begin a request in parts."""
        request = encode_request(
            self.session.now_ms(self.world.clock.now) + ms, 0, method, b"/", b"Host: a\r\n", body
        )
        return self.send(Kind.REQUEST_OPENING, stream, encode_opening(opening, request))

    def data(self, number: int, data: bytes, stream: int = 1) -> Message:
        return self.send(Kind.DATA, stream, encode_data(number, data))

    def end(self, number: int, trailers: bytes = b"", stream: int = 1) -> Message:
        return self.send(Kind.END, stream, encode_end(number, trailers))

    def answers(self) -> list[tuple[int, bytes, bytes]]:
        """Return (kind, subject, plaintext) of all that was sent back, and forget it."""
        found = []
        while self.world.bus.queue:
            message = self.world.bus.queue.popleft()
            kind, _, counter, _ = read_header(message.payload)
            found.append((kind, message.subject, self.session.open(message.payload, counter)))
        return found

    def refusal(self) -> tuple[int, str, bool]:
        """Return status, code and whether it was processed, of the one answer."""
        [(kind, _, plaintext)] = self.answers()
        assert kind == Kind.REFUSAL
        refusal = decode_refusal(plaintext)
        return refusal.status, refusal.code, refusal.processed

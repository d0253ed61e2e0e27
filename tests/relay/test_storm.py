"""Streams over a bus that fails, between agents and clients that go: whole or cut, and gone after."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from tests.relay.bodies import LAST, answer, chunks, got, pattern, wired
from tests.relay.transcript import request
from tests.relay.wires import READ, FakeTransport, Message, read_message
from tests.relay.world import World


class Storm:
    """Uploads and downloads while messages are lost, doubled and late, and everybody comes and goes."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = Random(seed)
        self.instances = wired(world, *(f"orders-{n}" for n in range(3)))
        self.clients: list[FakeTransport] = []
        self.sizes: list[int] = []
        self.unsent: dict[FakeTransport, bytes] = {}
        #: How many requests of each connection to an application were answered.
        self.answered: Counter[FakeTransport] = Counter()
        self.whole: Counter[int] = Counter()
        self._held: list[Any] = []

    def ask(self) -> None:
        number, size = len(self.clients), self.rng.choice([0, 10, 50_000, 70_000, 300_000])
        client = self.world.client()
        client.blocked = self.rng.random() < 0.3
        line = f"{self.rng.choice(['PUT', 'POST'])} /{number} HTTP/1.1"
        body = pattern(number, size)
        if self.rng.random() < 0.5:
            data = request(f"Content-Length: {size}", line=line) + body
        else:
            data = request("Transfer-Encoding: chunked", line=line) + chunks(body, 7_000) + LAST
        self.clients.append(client)
        self.sizes.append(size)
        self.unsent[client] = data

    def send(self) -> None:
        for client, data in list(self.unsent.items()):
            cut = self.rng.choice([0, 1000, 60_000, len(data)])
            client.arrive(data[:cut])
            self.unsent[client] = data[cut:]
            if not data[cut:] or client.is_lost():
                del self.unsent[client]

    def read(self) -> None:
        for wire in self.world.wires():
            if wire.blocked and wire.unread:
                wire.take(min(wire.unread, self.rng.choice([10_000, 100_000])))
            wire.blocked = not wire.is_lost() and self.rng.random() < 0.2
            wire.deliver(self.rng.choice([500, 20_000, READ]))

    def hurt(self) -> None:
        chance, instance = self.rng.random(), self.rng.choice(self.instances)
        if chance < 0.01:
            self.rng.choice(
                [instance.restart, instance.freeze, instance.thaw, instance.connect, instance.die]
            )()
        elif chance < 0.02 and self.clients:
            client = self.rng.choice(self.clients)
            self.unsent.pop(client, None)
            client.lose()
        elif chance < 0.03 and instance.app.wires:
            self.rng.choice(instance.app.wires).lose(ConnectionResetError())
        elif chance < 0.2:
            self.world.bus.set_congested(self.rng.random() < 0.5)

    def announce(self) -> None:
        """As each instance does once a second."""
        for instance in self.instances:
            instance.endpoint.ready, instance.endpoint.suspect = True, False
            if instance.endpoint.session is None:
                instance.connect()
            self.world.upstreams.changed(instance.endpoint.service)

    def deliver(self) -> None:
        bus, rng = self.world.bus, self.rng
        for _ in range(len(bus.queue)):
            message, chance = bus.queue.popleft(), rng.random()
            if chance < 0.005:
                continue
            if chance < 0.01:
                self._held.append(message)
                continue
            bus.deliver(message)
            if chance < 0.1:
                bus.deliver(message)
        if self._held and rng.random() < 0.5:
            bus.deliver(self._held.pop(0))

    def serve(self) -> None:
        """Look at what applications have got, and answer some of it, perhaps before it is whole."""
        for instance in self.instances:
            for wire in instance.app.wires:
                data = wire.written
                for _ in range(self.answered[wire]):
                    data = read_message(data).rest
                if b"\r\n\r\n" in data:
                    self._judge(wire, read_message(data))

    def _judge(self, wire: FakeTransport, message: Message) -> None:
        number = int(message.line.split(" ")[1][1:])
        body = pattern(number, self.sizes[number])
        assert body.startswith(message.body), "other bytes than were sent"
        assert not message.whole or message.body == body, "a part that passes for the whole"
        if wire.is_closing() or self.rng.random() < (0.5 if message.whole else 0.97):
            return
        self.answered[wire] += 1
        self.whole[number] += message.whole and message.line.startswith("POST")
        reply = pattern(number + 1, self.rng.choice([10, 50_000, 300_000]))
        wire.arrive(answer(reply, self.rng.choice(["length", "chunked"])))

    def judge(self) -> int:
        """Look at what clients have got; return how many are content."""
        good = 0
        for number, client in enumerate(self.clients):
            if not client.written:
                assert client.is_lost()
                continue
            message = got(client)
            assert message.rest == b""
            assert message.whole or client.is_lost(), "neither whole nor cut"
            if message.status == 200:
                assert pattern(number + 1, 300_000).startswith(message.body), "the answer to another request"
                good += message.whole and len(message.body) in (10, 50_000, 300_000)
                assert not message.whole or len(message.body) in (10, 50_000, 300_000)
        return good


@pytest.mark.parametrize("seed", range(15))
def test_whatever_happens_bodies_are_whole_or_cut_and_nothing_is_left(world: World, seed: int) -> None:
    storm = Storm(world, seed)
    for step in range(500):
        if step < 400 and step % 8 == 0:
            storm.ask()
        if step < 400:
            storm.hurt()
        if step in (200, 210):
            world.bus.queue.clear()
            world.bus.set_connected(step == 210)
        if step % 10 == 0:
            storm.announce()
        storm.send()
        storm.read()
        storm.deliver()
        storm.serve()
        world.tick()
    world.bus.set_congested(False)
    for instance in storm.instances:
        instance.thaw()
    storm.announce()
    for _ in range(60):
        storm.send()
        for wire in world.wires():
            wire.take()
        storm.serve()
        world.after(0.5, 0.1)
    assert storm.judge() >= 5
    assert [number for number, times in storm.whole.items() if times > 1] == [], "a POST that ran twice"
    world.over()

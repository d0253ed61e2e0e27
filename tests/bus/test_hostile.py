"""What a rogue client can send through a real server must cost its message and nothing else."""

from __future__ import annotations

import pytest

from tests.bus.conftest import Run
from tests.bus.rig import Inbox, RawClient, connected, until
from tests.support.bus import NatsServer

SUBJECT = b"busmesh.local.relay.orders"

#: Each of them ends the read loop of nats-py 2.16 for good, while it goes on to call itself connected.
BLOCKS = {
    "two bytes": b"\r\n",
    "eight bytes": b"NATS/1.0",
    "seven bytes": b"NATS/1.",
    "one blank": b" ",
    "bad bytes in the status": b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
    "bad bytes in the description": b"NATS/1.0 503 \xff\xfe\r\n\r\n",
    "bad bytes in a name and a value": b"NATS/1.0\r\n\xff: \xfe\r\n\r\n",
    "no line end at all": b"NATS/1.0 503",
    "colons only": b"NATS/1.0\r\n:::\r\n:\r\n\r\n",
    "zero bytes": b"\0" * 64,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_hostile_header_block_reaches_the_handler_and_reading_goes_on(
    nats_server: NatsServer, run: Run, block: bytes
) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe(SUBJECT.decode(), inbox)
            await bus.round_trip()
            with RawClient(nats_server) as rogue:
                rogue.publish_with_headers(SUBJECT, block, b"evil")
                rogue.publish(SUBJECT, b"good")
                rogue.round_trip()
            await until(lambda: b"good" in inbox.payloads)
            assert inbox.payloads == [b"evil", b"good"]
            assert inbox.messages[0][3] == block
            assert await bus.round_trip() < 1

    run(main())


def test_a_subject_and_a_reply_that_are_no_utf8_reach_the_handler_as_bytes(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("hostile.>", inbox)
            await bus.round_trip()
            with RawClient(nats_server) as rogue:
                rogue.publish(b"hostile.\xff\xfe", b"1")
                rogue.publish(b"hostile.x", b"2", reply=b"\xc3\x28")
                rogue.publish(b"hostile.x", b"3")
                rogue.round_trip()
            await until(lambda: len(inbox.messages) == 3)
            assert inbox.messages[0][0] == b"hostile.\xff\xfe"
            assert inbox.messages[1][1] == b"\xc3\x28"
            assert bus.connected
            assert await bus.round_trip() < 1

    run(main())


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_hostile_answer_does_not_break_the_one_who_asked(
    nats_server: NatsServer, run: Run, block: bytes
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with RawClient(nats_server) as rogue:

                def answer(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                    rogue.publish_with_headers(reply, block, b"evil", reply=b"\xff")

                await bus.subscribe("question", answer)
                answers = await bus.gather("question", timeout=0.2)
            assert [a.payload for a in answers] in ([b"evil"], [])  # a forged 503 says that nobody answers
            assert await bus.round_trip() < 1
            assert bus.statistics()["waiting"] == 0

    run(main())


def test_an_answer_to_a_question_that_nobody_asked_is_dropped(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with RawClient(nats_server) as rogue:
                for key in (b"x", b"\xff\xff", b"0123456789abcdef"):
                    rogue.publish(bus.inbox.encode() + b"." + key, b"unasked")
                rogue.round_trip()
            await bus.round_trip()
            assert bus.statistics()["handler_errors"] == 0
            assert bus.statistics()["waiting"] == 0

    run(main())


def test_a_handler_that_raises_is_counted_and_the_next_message_arrives(
    nats_server: NatsServer, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        inbox = Inbox()

        def fails(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
            inbox(subject, reply, payload, headers)
            raise ValueError("a bug")

        async with connected(nats_server.url) as bus:
            await bus.subscribe("a", fails)
            for number in range(50):
                bus.publish("a", b"%d" % number)
            await until(lambda: len(inbox.messages) == 50)
            assert bus.statistics()["handler_errors"] == 50
            assert await bus.round_trip() < 1

    run(main())
    logged = [record for record in caplog.records if "a handler failed" in record.message]
    assert len(logged) == 10, "a flood of bad messages must not become a flood of log lines"


def test_a_flood_of_answers_fills_no_memory(
    nats_server: NatsServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busmesh.bus.bus.MAX_GATHERED", 1_000_000)

    async def main() -> None:
        async with connected(nats_server.url) as bus:

            def flood(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                for _ in range(int(payload)):
                    bus.publish(reply.decode(), b"x" * 1000)

            await bus.subscribe("question", flood)
            answers = await bus.gather("question", b"5000", timeout=0.3)
            assert 600 < len(answers) < 1000  # what an answer costs is more than its payload
            assert len(await bus.gather("question", b"500", timeout=0.3)) == 500
            assert (await bus.request("question", b"500")).payload == b"x" * 1000
            assert await bus.round_trip() < 1

    run(main())

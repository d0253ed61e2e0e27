"""Going over to a new connection while messages come and go: none lost, none twice, none out of order."""

from __future__ import annotations

import asyncio

from tests.bus.conftest import Run
from tests.bus.rig import connected, until
from tests.support.bus import NatsServer

ROUNDS = 10
IN_A_ROUND = 200


def test_no_message_is_lost_repeated_or_moved(nats_server: NatsServer, run: Run) -> None:
    async def both_renew() -> None:
        heard: list[int] = []
        async with connected(nats_server.url) as sender, connected(nats_server.url) as receiver:
            await receiver.subscribe("busmesh.test.>", lambda s, r, payload, h: heard.append(int(payload)))
            await receiver.round_trip()
            number = 0
            for turn in range(ROUNDS):
                bus = (receiver, sender)[turn % 2]
                renewing = asyncio.create_task(bus.renew_login())
                for _ in range(IN_A_ROUND):
                    sender.publish(f"busmesh.test.{number % 3}", str(number).encode())
                    number += 1
                    await asyncio.sleep(0)
                assert await renewing
            await until(lambda: len(heard) >= number)
            await receiver.round_trip()
            assert heard == list(range(number))

    run(both_renew())


def test_a_question_under_way_is_answered(nats_server: NatsServer, run: Run) -> None:
    async def asked() -> None:
        async with connected(nats_server.url) as asker, connected(nats_server.url) as answerer:
            released = asyncio.Event()

            async def later(reply: str) -> None:
                await released.wait()
                answerer.publish(reply, b"yes")

            tasks: list[asyncio.Task[None]] = []
            await answerer.subscribe(
                "busmesh.test.ask",
                lambda s, reply, p, h: tasks.append(asyncio.create_task(later(reply.decode()))),
            )
            await answerer.round_trip()
            question = asyncio.create_task(asker.request("busmesh.test.ask", timeout=5))
            await until(lambda: bool(tasks))
            assert await asker.renew_login()
            assert await answerer.renew_login()
            released.set()
            assert (await question).payload == b"yes"

    run(asked())

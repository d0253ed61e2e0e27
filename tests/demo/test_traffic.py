"""The demo's caller: it sends whatever becomes of the requests before, and misses no failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from busmesh.demo import traffic as module
from busmesh.demo.ledger import Part, Result
from busmesh.demo.traffic import Traffic

Answer = Callable[[str], bytes | None]


def ok(head: str) -> bytes:
    service = "web" if "Host: web" in head else "orders"
    version = "v2" if "x-canary: always" in head else "v1"
    return response(200, {"service": service, "version": version, "instance": f"{service}-0"})


def response(status: int, body: object) -> bytes:
    payload = json.dumps(body).encode()
    return b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n%b" % (status, len(payload), payload)


class Agent:
    """A stand-in for the caller's agent: answers each request by a function of its head, or not at all."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.heads.append(head)
                said = self.answer(head)
                if said is not None:
                    writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def sending(answer: Answer) -> AsyncIterator[tuple[Traffic, Agent, list[Result]]]:
    agent, results = Agent(answer), []
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    traffic = Traffic((host, port), results.append, Random(7), rate=500.0)
    task = asyncio.create_task(traffic.run())
    try:
        yield traffic, agent, results
    finally:
        task.cancel()
        traffic.close()
        server.close()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # what is awaited happens in another task's callbacks
            await asyncio.sleep(0.005)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]  # a coroutine function is what it gets


def test_requests_go_to_both_and_only_some_ask_for_the_canary_while_there_is_one() -> None:
    async def main() -> None:
        async with sending(ok) as (traffic, agent, results):
            await until(lambda: len(results) >= 100)
            assert {result.service for result in results} == {"web", "orders"}
            assert not any(result.canary for result in results)
            assert all("x-canary" not in head for head in agent.heads)
            traffic.part = Part.CANARY
            await until(lambda: sum(result.part is Part.CANARY for result in results) >= 200)
            asked = [result for result in results if result.canary]
            assert 20 < len(asked) < 100
            assert {hop.version for result in asked for hop in result.hops} == {"v2"}
            assert {hop.version for r in results if not r.canary for hop in r.hops} == {"v1"}
            assert not any(result.failure for result in results)

    run(main)


def test_it_does_not_wait_for_answers_and_what_never_comes_back_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LAST_S", 0.1)

    async def main() -> None:
        async with sending(lambda head: None) as (traffic, agent, results):
            await until(lambda: len(agent.heads) >= 50)
            assert results == []
            await traffic.last()
            assert len(results) >= 50
            assert {result.failure for result in results} == {"no answer within 0.1 s"}

    run(main)


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (response(503, {"error": "no_healthy_upstream"}), '503 {"error": "no_healthy_upstream"}'),
        (response(200, ["nonsense"]), "the answer is not one of the shop"),
        (b"nonsense\r\n\r\n", "the application's response is not valid HTTP/1.1"),
    ],
)
def test_what_is_no_success_is_a_failure(said: bytes, failure: str) -> None:
    async def main() -> None:
        async with sending(lambda head: said) as (_, _, results):
            await until(lambda: len(results) >= 5)
            assert all(result.failure.startswith(failure) for result in results), results
            assert not any(result.hops for result in results)

    run(main)


def test_nobody_there_is_a_failure() -> None:
    async def main() -> None:
        results: list[Result] = []
        traffic = Traffic(("127.0.0.1", 1), results.append, Random(7))
        task = asyncio.create_task(traffic.run())
        await until(lambda: len(results) >= 3)
        task.cancel()
        traffic.close()
        assert all("no connection" in result.failure for result in results)

    run(main)

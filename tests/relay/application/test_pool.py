"""The pool of connections to the application: reuse, limits, and applications that refuse, close or hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from busmesh.relay.application import pool as pool_module
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application, PoolLimits
from busmesh.relay.application.rendering import render_request

Result = AppResponse | AppFailure
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class App:
    """An application on a socket that answers as the test says, and knows its connections."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        #: Makes the answer to a request; None closes the connection instead.
        self.answer: Callable[[bytes], Coroutine[Any, Any, bytes | None]] = self.always_ok
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._server: asyncio.Server | None = None

    @staticmethod
    async def always_ok(request: bytes) -> bytes | None:
        return OK

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()

    def close_all(self) -> None:
        for writer in self.writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.append(writer)
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(request)
                await self.may_answer.wait()
                answer = await self.answer(request)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


class Caller:
    """Makes calls on a pool; each has a future for its end."""

    def __init__(self, pool: Application) -> None:
        self.pool = pool

    def call(self, path: str = "/", method: str = "GET") -> tuple[Call, asyncio.Future[Result]]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        message = render_request(method.encode(), path.encode(), b"host: a\r\n", b"")
        call = Call(method.encode(), message, future.set_result)  # a second end would raise
        self.pool.send(call)
        return call, future

    async def ask(self, path: str = "/", method: str = "GET") -> Result:
        return await self.call(path, method)[1]


@asynccontextmanager
async def running(**limits: Any) -> AsyncIterator[tuple[App, Application, Caller]]:
    app = App()
    await app.start()
    pool = Application("127.0.0.1", app.port, PoolLimits(**limits))
    try:
        yield app, pool, Caller(pool)
    finally:
        pool.close()
        await app.stop()


async def until(claim: Callable[[], bool]) -> None:
    """Let the loop turn until ``claim`` holds; fail after two seconds."""
    async with asyncio.timeout(2):
        while not claim():  # noqa: ASYNC110 - the things waited for tell nobody
            await asyncio.sleep(0.001)


def run(work: Coroutine[Any, Any, None]) -> None:
    uvloop.run(work)


def code(result: Result) -> str:
    assert isinstance(result, AppFailure), result
    return result.code


def ok(result: Result) -> bool:
    return isinstance(result, AppResponse) and result.status == 200


# -- requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "body", "written"),
    [
        (b"GET", b"", b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
        (b"DELETE", b"", b"DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n"),
        (b"POST", b"", b"POST /a HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n"),
        (b"PUT", b"abc", b"PUT /a HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc"),
        (b"GET", b"abc", b"GET /a HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\nabc"),
    ],
)
def test_a_request_is_written_with_its_length(method: bytes, body: bytes, written: bytes) -> None:
    assert render_request(method, b"/a", b"Host: x\r\n", body) == written


# -- reuse -------------------------------------------------------------------------------------------


def test_calls_in_turn_share_one_connection() -> None:
    async def work() -> None:
        async def answer(request: bytes) -> bytes | None:
            return OK[:-2] if request.startswith(b"HEAD") else OK

        async with running() as (app, pool, caller):
            app.answer = answer
            for n in range(20):
                assert ok(await caller.ask(f"/{n}", "HEAD" if n % 3 == 0 else "GET"))
            assert app.accepted == 1
            assert pool.statistics() == {"connections": 1, "idle": 1, "pending": 0, "connecting": 0}

    run(work())


def test_calls_at_once_have_a_connection_each_and_keep_them() -> None:
    async def work() -> None:
        async with running() as (app, pool, caller):
            for _ in range(3):
                assert all(map(ok, await asyncio.gather(*(caller.ask() for _ in range(10)))))
            assert app.accepted == 10
            assert pool.statistics()["idle"] == 10

    run(work())


def test_a_connection_that_the_application_closed_is_not_used_again() -> None:
    async def work() -> None:
        async with running() as (app, pool, caller):
            assert ok(await caller.ask())
            app.writers[0].close()
            await until(lambda: not pool.connections)
            assert ok(await caller.ask())
            assert app.accepted == 2

    run(work())


def test_a_response_that_closes_makes_the_next_call_open_another() -> None:
    async def work() -> None:
        async def answer(request: bytes) -> bytes | None:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

        async with running() as (app, _, caller):
            app.answer = answer
            assert ok(await caller.ask())
            assert ok(await caller.ask())
            assert app.accepted == 2

    run(work())


def test_idle_connections_are_given_up_before_the_application_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application that closes at the very moment of reuse loses a request; gunicorn does it after 2 s."""
    assert pool_module.IDLE_S + pool_module.SWEEP_S < 2.0

    async def work() -> None:
        async with running() as (_, pool, caller):
            now = [100.0]
            monkeypatch.setattr("busmesh.relay.application.pool.time.monotonic", lambda: now[0])
            await asyncio.gather(*(caller.ask() for _ in range(3)))
            now[0] += 1.0
            assert ok(await caller.ask())
            now[0] += 0.6
            pool._sweep()
            assert pool.statistics()["idle"] == 1, "the one used last"
            now[0] += 1.0
            pool._sweep()
            await until(lambda: not pool.connections)
            assert pool.statistics() == {"connections": 0, "idle": 0, "pending": 0, "connecting": 0}
            assert ok(await caller.ask())

    run(work())


# -- applications that are not there -------------------------------------------------------------------


def test_a_refused_connection_means_not_processed() -> None:
    async def work() -> None:
        async with running() as (app, pool, caller):
            told = []
            pool.on_unreachable = lambda: told.append(1)
            await app.stop()
            result = await caller.ask(method="POST")
            assert isinstance(result, AppFailure)
            assert (result.code, result.processed) == ("application_unreachable", False)
            assert f"127.0.0.1:{app.port}" in result.message
            assert told
            await app.start()
            assert ok(await caller.ask())

    run(work())


def test_a_refusal_is_told_to_all_that_wait() -> None:
    async def work() -> None:
        async with running(connections=2) as (app, pool, caller):
            await app.stop()
            results = await asyncio.gather(*(caller.ask() for _ in range(10)))
            assert {code(result) for result in results} == {"application_unreachable"}
            assert pool.statistics() == {"connections": 0, "idle": 0, "pending": 0, "connecting": 0}

    run(work())


def test_a_connection_that_does_not_come_about_times_out() -> None:
    async def work() -> None:
        pool = Application("127.0.0.1", 9, PoolLimits(connect_timeout=0.02))

        async def never(*args: object, **options: object) -> None:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(loop), "create_connection", never)
            result = await Caller(pool).ask()
        assert isinstance(result, AppFailure)
        assert (result.code, result.processed) == ("application_unreachable", False)
        pool.close()

    asyncio.run(work())  # uvloop's loop cannot be patched


def test_an_application_that_closes_instead_of_answering() -> None:
    async def work() -> None:
        async def answer(request: bytes) -> bytes | None:
            return None if b"/bad" in request else OK

        async with running() as (app, _, caller):
            app.answer = answer
            result = await caller.ask("/bad")
            assert isinstance(result, AppFailure)
            assert (result.code, result.processed) == ("application_reset", True)
            assert ok(await caller.ask("/good"))

    run(work())


# -- limits --------------------------------------------------------------------------------------------


def test_no_more_connections_than_the_limit() -> None:
    async def work() -> None:
        async with running(connections=3, pending=100) as (app, pool, caller):
            app.may_answer.clear()
            futures = [caller.call(f"/{n}")[1] for n in range(20)]
            await until(lambda: len(app.requests) == 3)
            assert pool.statistics() == {"connections": 3, "idle": 0, "pending": 17, "connecting": 0}
            app.may_answer.set()
            assert all(map(ok, await asyncio.gather(*futures)))
            assert app.accepted == 3
            paths = [int(request.split(b" ")[1][1:]) for request in app.requests]
            assert sorted(paths) == list(range(20))

    run(work())


def test_above_the_limit_of_waiting_calls_they_are_refused_at_once() -> None:
    async def work() -> None:
        async with running(connections=1, pending=2) as (app, _, caller):
            app.may_answer.clear()
            first = caller.call()[1]
            await until(lambda: len(app.requests) == 1)
            waiting = [caller.call()[1] for _ in range(2)]
            refused = await caller.ask(method="POST")
            assert isinstance(refused, AppFailure)
            assert (refused.code, refused.processed) == ("overflow", False)
            app.may_answer.set()
            assert all(map(ok, await asyncio.gather(first, *waiting)))

    run(work())


def test_a_cancelled_call_that_waited_makes_room() -> None:
    async def work() -> None:
        async with running(connections=1, pending=2) as (app, pool, caller):
            app.may_answer.clear()
            first = caller.call("/first")[1]
            await until(lambda: len(app.requests) == 1)
            cancelled = [caller.call("/cancelled") for _ in range(2)]
            for call, _ in cancelled:
                call.cancel()
            assert pool.statistics()["pending"] == 0
            last = caller.call("/last")[1]
            app.may_answer.set()
            assert ok(await first)
            assert ok(await last)
            assert not any(future.done() for _, future in cancelled)
            assert [request.split(b" ")[1] for request in app.requests] == [b"/first", b"/last"]

    run(work())


def test_cancelling_tells_the_application_and_frees_the_place() -> None:
    async def work() -> None:
        async with running(connections=2, pending=10) as (app, pool, caller):
            app.may_answer.clear()
            at_work = [caller.call() for _ in range(2)]
            await until(lambda: len(app.requests) == 2)
            waiting = [caller.call()[1] for _ in range(4)]
            for call, _ in at_work:
                call.cancel()
            await until(lambda: len(app.requests) == 4)
            app.may_answer.set()
            assert all(map(ok, await asyncio.gather(*waiting)))
            assert not any(future.done() for _, future in at_work)
            assert app.accepted == 4, "one new connection for each that was closed, not one for all"
            assert pool.statistics()["pending"] == 0

    run(work())


def test_closing_ends_every_call_once() -> None:
    async def work() -> None:
        async with running(connections=1) as (app, pool, caller):
            app.may_answer.clear()
            at_work, waiting = caller.call()[1], caller.call()[1]
            await until(lambda: len(app.requests) == 1)
            pool.close()
            first, second = await asyncio.gather(at_work, waiting)
            assert isinstance(first, AppFailure)
            assert isinstance(second, AppFailure)
            assert (first.code, first.processed) == ("application_closed", True)
            assert (second.code, second.processed) == ("application_closed", False)
            assert code(await caller.ask()) == "application_closed"
            await until(lambda: not pool.connections)
            assert app.accepted == 1
            assert pool.statistics()["connecting"] == 0

    run(work())


def test_calls_survive_an_application_that_restarts_often() -> None:
    """Whatever happens, every call ends exactly once and nothing is left behind."""

    async def work() -> None:
        count = 0

        async def answer(request: bytes) -> bytes | None:
            nonlocal count
            count += 1
            if count % 7 == 0:
                return None
            if count % 5 == 0:
                return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
            if count % 11 == 0:
                return b"HTTP/1.1 200 OK\r\n\r\nnonsense" if count % 2 else b"garbage\r\n\r\n"
            return OK

        async with running(connections=8, pending=1000) as (app, pool, caller):
            app.answer = answer
            calls = [caller.call(f"/{n}") for n in range(300)]
            for n, (call, _) in enumerate(calls):
                if n % 13 == 0:
                    await asyncio.sleep(0)
                    call.cancel()
            alive = [future for n, (call, future) in enumerate(calls) if not call.cancelled]
            ended = asyncio.gather(*alive)
            while not ended.done():  # an answer without length ends with its connection, whenever it comes
                await asyncio.sleep(0.02)
                app.close_all()
            results = await ended
            assert sum(map(ok, results)) > 150
            await until(lambda: pool.statistics()["pending"] == 0 and pool.statistics()["connecting"] == 0)
            assert all(connection.call is None for connection in pool.connections)

    run(work())

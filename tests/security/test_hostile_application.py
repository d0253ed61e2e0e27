"""What an application answers cannot wedge its agent, nor make the mesh repeat what was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application
from busmesh.relay.application.rendering import render_request
from busmesh.wire.http import decode_response, encode_response
from tests.support.bars import bar

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"content-length: 0\r\n\r\n"


async def answered(answer: Iterator[bytes]) -> AppResponse | AppFailure:
    """Return what the pool makes of an application that sends ``answer`` to whatever comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            for part in answer:
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    application = Application(*server.sockets[0].getsockname()[:2])
    done: asyncio.Future[AppResponse | AppFailure] = asyncio.get_running_loop().create_future()
    application.send(Call(b"GET", render_request(b"GET", b"/", b"host: a\r\n", b""), done.set_result))
    try:
        return await asyncio.wait_for(done, 10)
    finally:
        application.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)  # aborted connections close in the next turn


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 " + b"R" * 300 + b"\r\n" + EMPTY,
        b"HTTP/1.1 200 a\x01b\r\n" + EMPTY,
        OK + b"Content_Length: 7\r\nX_Busmesh_Flags: evil\r\n" + EMPTY,
        OK + b"Expect: 100-continue\r\nTransfer_Encoding: chunked\r\n" + EMPTY,
        OK + b"X-Forwarded_Client-Cert: evil\r\nx-kept: 1\r\n" + EMPTY,
    ],
)
def test_an_odd_response_reaches_the_caller(answer: bytes) -> None:
    result = asyncio.run(answered(iter([answer])))
    assert isinstance(result, AppResponse)
    read = decode_response(
        encode_response(result.status, result.reason, result.headers, result.body, result.declared)
    )
    assert read.status == 200
    assert b"evil" not in read.headers


@pytest.mark.parametrize("status", [b"000", b"099", b"600", b"999"])
def test_a_status_that_is_none_is_refused(status: bytes) -> None:
    result = asyncio.run(answered(iter([b"HTTP/1.1 " + status + b" X\r\n" + EMPTY])))
    assert isinstance(result, AppFailure)
    assert (result.processed, result.code) == (True, "bad_response")


def endless(head: bytes, part: bytes) -> Iterator[bytes]:
    yield head
    while True:
        yield part


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (OK + b"X-A: ", b"a" * 65_536),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: ", b"a" * 65_536),
        (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"X-T: a\r\n" * 1000),
        (OK + b"transfer-encoding: chunked\r\n\r\n2;", b"a" * 65_536),
        (OK + b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65_536 + b"\r\n"),
    ],
)
def test_an_answer_without_end_is_cut(head: bytes, part: bytes) -> None:
    begin = time.process_time()
    result = asyncio.run(answered(endless(head, part)))
    assert isinstance(result, AppFailure)
    assert result.code in ("response_headers_too_large", "response_too_large", "bad_response")
    assert time.process_time() - begin < bar(2.0)

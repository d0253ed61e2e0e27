"""Responses that come in parts: a download of any size, events without end, or another protocol.

An exchange comes here when its response has begun; from then on nothing is tried again, and whatever goes
wrong breaks the response off in a way that no client takes for its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from busmesh.errors import RemoteProtocolError
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.flow import STREAM_IDLE_S, Emit, Receiver, Windows
from busmesh.relay.tries.exchange import Exchange
from busmesh.wire.frame import Kind
from busmesh.wire.http import (
    INTERIM,
    SWITCHING,
    Refusal,
    WireResponse,
    decode_refusal,
    decode_response,
    encode_refusal,
)
from busmesh.wire.stream import Opening, decode_credit, decode_data, decode_end

Over = Callable[[Exchange, int, str, int], None]


class Streams:
    """The exchanges of one agent whose response has begun and not ended.

    Args:
        emitter: gives what writes frames of an exchange's stream.
        over: called when one has ended, with status, response flags and size of the response.
    """

    def __init__(self, emitter: Callable[[Exchange], Emit], over: Over) -> None:
        self._emitter = emitter
        self._over = over
        self._windows = Windows()
        #: By stream number.
        self.begun: dict[int, Exchange] = {}

    def begin(self, exchange: Exchange, opening: Opening, response: WireResponse) -> None:
        """Take the beginning of a response.

        Raises:
            RemoteProtocolError: what no agent writes; nothing was written to the client.
        """
        request = exchange.request
        request.begin(response.status, response.reason, exchange.response_block(response.headers), opening)
        exchange.status = response.status
        exchange.moved = time.monotonic()
        if exchange.rule.timeout is None:
            exchange.deadline = math.inf
        exchange.download = request.download = Receiver(self._emitter(exchange), self._windows)
        self.begun[exchange.stream] = exchange
        if request.reads:
            exchange.download.placed()
        else:
            exchange.download.pause()

    def take(self, kind: int, exchange: Exchange, plaintext: bytes) -> None:
        """Take a frame of a response that has begun."""
        try:
            self._take(kind, exchange, plaintext)
        except RemoteProtocolError as error:
            self.break_off(exchange, "DPE", "stream_broken", str(error))

    def _take(self, kind: int, exchange: Exchange, plaintext: bytes) -> None:
        exchange.moved = time.monotonic()
        download, request = exchange.download, exchange.request
        assert download is not None, "a response that has begun"
        if kind == Kind.DATA:
            number, data = decode_data(plaintext)
            download.data(number, len(data))
            request.write(data)
            download.placed()
        elif kind == Kind.END:
            number, trailers = decode_end(plaintext)
            download.end(number)
            request.finish(trailers)
            if not exchange.switched or exchange.upload is None or exchange.upload.ended:
                self._end(exchange, "")
        elif kind == Kind.CREDIT:
            if exchange.upload is not None:
                exchange.upload.grant(decode_credit(plaintext))
        elif kind == Kind.RESET:
            refusal = decode_refusal(plaintext)
            self._end(exchange, refusal.flags)
            request.break_off()

    def half_ended(self, exchange: Exchange) -> None:
        """Hear that the client has sent all: a switched connection is over if the other side has, too."""
        if exchange.stream in self.begun and exchange.download is not None and exchange.download.ended:
            self._end(exchange, "")

    def break_off(self, exchange: Exchange, flags: str, code: str, message: str) -> None:
        """Give a response up, at both ends."""
        if exchange.stream in self.begun:
            self._emitter(exchange)(
                Kind.RESET, encode_refusal(Refusal(True, 499, flags, code, message[:200]))
            )
            self._end(exchange, flags)
            exchange.request.break_off()

    def fail_all(self, endpoint: Endpoint, code: str, message: str, worker: int | None = None) -> None:
        """Give up what comes from an instance that is gone, or from one process of it."""
        for exchange in [x for x in self.begun.values() if x.endpoint is endpoint and x.is_with(worker)]:
            self.break_off(exchange, "UF", code, message)

    def _end(self, exchange: Exchange, flags: str) -> None:
        del self.begun[exchange.stream]
        download = exchange.download
        assert download is not None, "a response that has begun"
        download.close()
        self._over(exchange, exchange.status, flags, download.size)

    def tick(self, now: float) -> Iterator[Exchange]:
        """Break off what is late or at rest; yield one stream per session, to be asked after."""
        asked: dict[int, Exchange] = {}
        for exchange in list(self.begun.values()):
            if now >= exchange.deadline:
                self.break_off(
                    exchange, "UT", "timeout", f"the response did not end within {exchange.allowed:g} s"
                )
            elif now - exchange.moved > STREAM_IDLE_S:
                self.break_off(exchange, "UT", "stream_idle", f"nothing moved for {STREAM_IDLE_S:g} s")
            elif exchange.session is not None and exchange.download is not None:
                exchange.download.remind()
                number = exchange.session.number
                if number not in asked or exchange.asked_at < asked[number].asked_at:
                    asked[number] = exchange
        yield from asked.values()

    def __repr__(self) -> str:
        return f"<Streams begun={len(self.begun)} {self._windows}>"


def decode_interim(plaintext: bytes) -> tuple[int, bytes, bytes]:
    """Return status, reason and headers of a 1xx response.

    Raises:
        RemoteProtocolError: what no agent writes.
    """
    response = decode_response(plaintext, INTERIM)
    if response.status == SWITCHING[0]:
        raise RemoteProtocolError("a switch of protocols that is no response's beginning")
    return response.status, response.reason, response.headers

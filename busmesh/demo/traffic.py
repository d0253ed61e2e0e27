"""The demo's caller: a steady stream of requests through its agent, whatever becomes of those before.

It is an open loop, as people are: a slow answer holds up nobody else's request, so trouble shows in the
figures instead of hiding in a lower rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from busmesh.demo.ledger import CANARY_PARTS, Hop, Part, Result, read_hops
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application, PoolLimits
from busmesh.relay.application.rendering import render_request

#: Requests a second. About a fifth of what two cores do with the shop's own Python servers.
RATE = 100.0
#: Of these, so many go in at the front; the others straight to orders, so that two agents split.
WEB_SHARE = 0.4
CANARY_SHARE = 0.25
#: What is on its way at the end is waited for; the agent itself answers after 15 s at the latest.
LAST_S = 16.0
_PATHS = {"web": b"/", "orders": b"/orders"}
_CANARY = b"x-canary: always\r\n"


class Traffic:
    """Sends requests and reports the result of each.

    Args:
        outbound: where the caller's agent listens.
        report: told each result.
        rng: decides what is asked, not when.
        rate: requests a second.

    Attributes:
        part: of the demo; each request belongs to the part in which it was sent.
    """

    def __init__(
        self,
        outbound: tuple[str, int],
        report: Callable[[Result], None],
        rng: Random,
        *,
        rate: float = RATE,
    ) -> None:
        self.part = Part.EVEN
        self._report = report
        self._rng = rng
        self._rate = rate
        self._pool = Application(*outbound, PoolLimits(connections=512, pending=4096))
        self._sent = 0
        self._on_way: dict[int, _Request] = {}
        self._none_left = asyncio.Event()

    async def run(self) -> None:
        """Send until cancelled."""
        began, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self._rate) + 1
            for _ in range(due - sent):
                self._send()
            sent = due
            await asyncio.sleep(max(0.0, began + sent / self._rate - time.monotonic()))

    async def last(self) -> None:
        """Wait for what is on its way; what does not come back has failed."""
        if self._on_way:
            self._none_left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._none_left.wait()
        for request in list(self._on_way.values()):
            self._report(request.result(AppFailure(True, "timeout", f"no answer within {LAST_S:g} s")))
        self.close()

    def close(self) -> None:
        """Give up what is on its way, without a result."""
        self._on_way.clear()
        self._pool.close()

    def _send(self) -> None:
        service = "web" if self._rng.random() < WEB_SHARE else "orders"
        canary = self.part in CANARY_PARTS and self._rng.random() < CANARY_SHARE
        request = _Request(self.part, service, canary, time.monotonic())
        self._sent = number = self._sent + 1
        self._on_way[number] = request

        def done(answer: AppResponse | AppFailure) -> None:
            if self._on_way.pop(number, None) is None:
                return
            self._report(request.result(answer))
            if not self._on_way:
                self._none_left.set()

        headers = b"Host: %b\r\n%b" % (service.encode(), _CANARY if canary else b"")
        self._pool.send(Call(b"GET", render_request(b"GET", _PATHS[service], headers, b""), done))

    def __repr__(self) -> str:
        return f"<Traffic part={self.part.name} on_way={len(self._on_way)} {self._pool.statistics()}>"


@dataclass(frozen=True, slots=True)
class _Request:
    part: Part
    service: str
    canary: bool
    began: float

    def result(self, answer: AppResponse | AppFailure) -> Result:
        hops: tuple[Hop, ...] = ()
        failure = ""
        if isinstance(answer, AppFailure):
            failure = answer.message
        elif answer.status != 200:
            failure = f"{answer.status} {answer.body[:200].decode('utf-8', 'replace').strip()}"
        else:
            try:
                hops = read_hops(answer.body)
            except ValueError as error:
                failure = str(error)
        return Result(self.part, self.service, self.canary, time.monotonic() - self.began, hops, failure)

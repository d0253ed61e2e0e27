"""Load for tests: many small requests, in turn or at a fixed rate, with everything written down."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True)
class Result:
    """One request's end. ``status`` is 0 if the connection to the agent failed."""

    number: int
    status: int
    by: str
    seconds: float
    body: str
    flags: str


class Caller:
    """A client over one keep-alive connection to an agent's outbound address."""

    def __init__(self, outbound: str, service: str) -> None:
        self._connection = http.client.HTTPConnection(outbound, timeout=20)
        self._service = service

    def call(
        self, path: str = "/", *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, JSON body and headers."""
        sent = {"Host": self._service, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self._connection.request(method, path, body=body, headers=sent)
        answer = self._connection.getresponse()
        data = answer.read()
        return (
            answer.status,
            json.loads(data) if data else None,
            {k.lower(): v for k, v in answer.getheaders()},
        )

    def close(self) -> None:
        self._connection.close()


def count_by(outbound: str, service: str, requests: int) -> Counter[str]:
    """Send ``requests`` GETs and count who answered; a failure counts as its status."""
    caller = Caller(outbound, service)
    answered: Counter[str] = Counter()
    for _ in range(requests):
        status, body, _ = caller.call("/")
        answered[body["name"] if status == 200 else str(status)] += 1
    caller.close()
    return answered


async def at_rate(
    outbound: str,
    service: str,
    *,
    rate: float,
    count: int,
    make: Callable[[int], dict[str, Any]] = lambda number: {"method": "GET"},
    until: asyncio.Event | None = None,
) -> list[Result]:
    """Send ``count`` requests, one each 1/``rate`` seconds whatever becomes of those before (open loop).

    Args:
        outbound: address of the agent.
        service: whom to ask.
        rate: requests per second.
        count: how many at least.
        make: what to ask, by the request's number.
        until: go on until this is set, if it is not by then.
    """
    limits = httpx2.Limits(max_connections=500, max_keepalive_connections=100)
    async with httpx2.AsyncClient(limits=limits, timeout=20, trust_env=False) as client:

        async def one(number: int) -> Result:
            options = make(number)
            headers = {"Host": service, **options.pop("headers", {})}
            begin = time.perf_counter()
            try:
                answer = await client.request(
                    url=f"http://{outbound}{options.pop('path', '/')}", headers=headers, **options
                )
            except httpx2.HTTPError as error:
                return Result(number, 0, "", time.perf_counter() - begin, repr(error), "")
            took = time.perf_counter() - begin
            by = answer.json().get("name", "") if answer.status_code == 200 else ""
            flags = answer.headers.get("x-busmesh-flags", "")
            return Result(number, answer.status_code, by, took, answer.text, flags)

        begin = time.perf_counter()
        tasks = []
        for number in itertools.count():
            if number >= count and (until is None or until.is_set()):
                break
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        return list(await asyncio.gather(*tasks))

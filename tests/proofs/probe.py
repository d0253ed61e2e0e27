"""An ordinary client beside an attack or a load: how long its requests take."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing
from statistics import quantiles
from types import TracebackType


class Probe:
    """Asks over one connection, in turn, ``interval`` seconds apart, as long as the context lasts.

    Attributes:
        took: seconds of each answer with status 200.
        asked: when each of these was asked for, by :func:`time.monotonic`.
        failed: what came instead of such answers.
    """

    def __init__(self, outbound: str, service: str, path: str, interval: float = 0.01) -> None:
        self.took: list[float] = []
        self.asked: list[float] = []
        self.failed: list[str] = []
        self._outbound, self._service, self._path, self._interval = outbound, service, path, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def p99(self) -> float:
        """Return the 99th percentile in seconds."""
        return quantiles(self.took, n=100)[98]

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(20)

    def _run(self) -> None:
        with closing(http.client.HTTPConnection(self._outbound, timeout=10)) as connection:
            while not self._over.wait(self._interval):
                begin = time.monotonic()
                try:
                    connection.request("GET", self._path, headers={"Host": self._service})
                    answer = connection.getresponse()
                    answer.read()
                except (http.client.HTTPException, OSError) as error:
                    self.failed.append(repr(error))
                    connection.close()
                    continue
                if answer.status == 200:
                    self.took.append(time.monotonic() - begin)
                    self.asked.append(begin)
                else:
                    self.failed.append(f"{answer.status} {answer.getheader('x-busmesh-flags')}")

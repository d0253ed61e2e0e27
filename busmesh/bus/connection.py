"""The connection to the bus: found again for ever, proven each second, never more than one.

nats-py keeps up a connection well enough while nothing is wrong. What it does not notice, gives up over or
waits for without end is mended here: a watchdog proves the connection by round trips, because a frozen server
would be noticed after minutes; a client that was closed for good is replaced by a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Server

from busmesh.bus.client import Client
from busmesh.bus.options import BusOptions
from busmesh.errors import BusUnavailable, Denied

log = logging.getLogger(__name__)

#: Attempts follow each other at a random 50 ms to 500 ms: service is back within a second of the bus, and a
#: thousand agents do not return in one instant.
RECONNECT_FIRST_S = 0.2
RECONNECT_MAX_S = 0.5
WATCHDOG_INTERVAL_S = 1.0
WATCHDOG_TIMEOUT_S = 0.8
WATCHDOG_MISSES = 2
#: For the last messages to leave; a server that hangs does not get longer.
CLOSE_S = 1.0


class _LoginRefused(Exception):
    """The server said that it does not know this login."""


class Connection:
    """A connection that outlives servers, restarts and revoked logins."""

    def __init__(self, options: BusOptions, rng: random.Random | None = None) -> None:
        self.options = options
        self.connected = False
        self.permission_errors = 0
        self.reconnects = -1  # the first connection is none
        self.inbox = f"{options.inbox_prefix}.{secrets.token_hex(8)}"
        self._rng = rng or random.Random()
        self._client: Client | None = None
        self._watchers: list[Callable[[bool], None]] = []
        self._writers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: set[asyncio.Task[None]] = set()  # each ends within CLOSE_S by itself
        self._closing = False
        self._last_error = ""

    # -- what the user of the connection has to do with it ----------------------------------------

    def _restore(self, client: Client) -> None:
        """Give a new client what the one before it had."""

    def _denied(self, text: str) -> None:
        """Hear that the server refused a publish or a subscription; ``text`` names it in lower case."""

    # -- life ------------------------------------------------------------------------------------

    async def connect(self, *, patience: float | None = None) -> None:
        """Connect, trying for ``patience`` seconds (None: for ever); a second call finds it done.

        Raises:
            BusUnavailable: no server answered in that time; the hint names the URLs tried.
            Denied: the server refused the login.
        """
        if self._client is not None:
            return
        try:
            async with asyncio.timeout(patience):
                while not await self._connect_once():  # noqa: ASYNC110 - tries, not waits
                    await asyncio.sleep(self._rng.uniform(0.05, RECONNECT_MAX_S))
        except TimeoutError:
            where = ", ".join(self.options.servers)
            raise BusUnavailable(
                f"no answer from the bus at {where}: {self._last_error or 'timeout'}",
                code="BM3001",
                hint="start one with `busmesh up`, or name it with --bus",
            ) from None
        self._own(self._watch())

    async def _connect_once(self) -> bool:
        client = Client(
            lambda standing: self._on_state(standing) if self._client is client else None,
            self._no_longer_busy,
        )

        # What a client that was given up still has to say concerns nobody.
        async def reconnected() -> None:
            if self._client is client:
                self._on_reconnected()

        async def closed() -> None:
            if self._client is client:
                self._on_closed()

        async def failed(error: Exception) -> None:
            self._on_error(error)
            if self._client is not client and "authorization" in str(error).lower():
                raise _LoginRefused(str(error))  # ends nats-py's tries, which would go on

        try:
            async with asyncio.timeout(3.0):
                await client.connect(
                    error_cb=failed,
                    reconnected_cb=reconnected,
                    closed_cb=closed,
                    reconnect_to_server_handler=self._next_server,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,  # type: ignore[arg-type]  # annotated int, used as seconds
                    connect_timeout=2,
                    ping_interval=2,
                    max_outstanding_pings=2,
                    inbox_prefix=self.inbox,
                    **self.options.login(),
                )
            self._client = client
        except _LoginRefused as error:
            raise Denied(
                f"the bus refused the login: {error}",
                code="BM3002",
                hint="check the credentials given with --creds or --nkey",
            ) from None
        except (TimeoutError, OSError, nats_errors.Error) as error:
            self._last_error = self._last_error or str(error) or type(error).__name__
            return False
        finally:
            if self._client is not client:  # also when whoever connects loses patience
                client.cut()
                self._own(_close_quietly(client), self._farewells)
        self._restore(client)
        self._stand()
        return True

    def _stand(self) -> None:
        self.connected = True
        self.reconnects += 1
        self._last_error = ""
        self._tell(True)

    def _on_state(self, standing: bool) -> None:
        """Hear from the socket, before nats-py does, that the connection is lost."""
        if not standing and self.connected:
            self.connected = False
            self._tell(False)

    def _tell(self, standing: bool) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(standing)
            except Exception:  # one watcher's bug must not end the reconnecting
                log.exception("bus: a watcher of the connection failed")

    def _on_reconnected(self) -> None:
        log.info("bus: connected again")
        if self._client is not None:
            self._client.forgive_servers()
        self._stand()

    def _on_closed(self) -> None:
        """nats-py gave up for good (a revoked login does that): build a new client, for ever."""
        self._on_state(False)
        if not self._closing:
            self._own(self._rebuild())

    async def _rebuild(self) -> None:
        log.warning(
            "bus: the client was closed (%s); building a new one", self._last_error or "no reason given"
        )
        while not self._closing:
            await asyncio.sleep(self._rng.uniform(0.1, RECONNECT_MAX_S))
            try:
                if await self._connect_once():
                    return
            except Denied:
                continue  # until the login is known again
            except Exception:  # whatever it is, giving up would cut the agent off for good
                log.exception("bus: the connection could not be built anew")

    def _on_error(self, error: Exception) -> None:
        text = str(error)
        if "permissions violation" in text:
            self.permission_errors += 1
            log.error("bus: %s; the login lacks this right", text)
            self._denied(text)
            return
        if text and text != self._last_error:
            log.info("bus: %s (%s); trying on", text, ", ".join(self.options.servers))
        self._last_error = text or type(error).__name__

    def _next_server(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
        """Choose the server tried least, rather another than the last; wait longer the more it was tried."""
        last = self._client.server_in_use if self._client is not None else ""
        server = min(servers, key=lambda s: (s.reconnects, s.uri.netloc == last))
        most = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2 ** min(server.reconnects, 8))
        return server, self._rng.uniform(most / 4, most)

    async def _watch(self) -> None:
        misses = 0
        while not self._closing:
            if not misses:  # after a miss the next probe follows at once
                await asyncio.sleep(WATCHDOG_INTERVAL_S)
            client = self._client
            if client is None or not self.connected:
                misses = 0
                if client is not None and client.stranded:
                    client.cut()
                    await _close_quietly(client)  # which has a new one built
                continue
            try:
                await client.rtt(WATCHDOG_TIMEOUT_S)
                misses = 0
            except (nats_errors.Error, OSError, AssertionError, AttributeError):
                misses += 1
                if misses >= WATCHDOG_MISSES and self.connected:
                    log.warning("bus: no answer to %d probes; reconnecting", misses)
                    misses = 0
                    client.cut()

    async def round_trip(self, timeout: float = WATCHDOG_TIMEOUT_S) -> float:
        """Prove the connection; return the seconds that it took.

        Raises:
            BusUnavailable: no answer within ``timeout`` seconds.
        """
        try:
            return await self._standing().rtt(timeout)
        except (nats_errors.Error, OSError):
            raise BusUnavailable("the bus does not answer", code="BM3003") from None

    async def close(self) -> None:
        self._closing = True
        self.connected = False
        if self._client is not None:
            self._client.flush_outgoing()
            await _close_quietly(self._client)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._farewells, return_exceptions=True)

    def _own(self, work: Any, among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def on_connection(self, watcher: Callable[[bool], None]) -> None:
        """Call ``watcher`` with True after each (re)connection and with False at each loss."""
        self._watchers.append(watcher)

    def on_writable(self, writer: Callable[[], None]) -> None:
        """Call ``writer`` each time the bus takes bytes again after it was busy."""
        self._writers.append(writer)

    def _no_longer_busy(self) -> None:
        for writer in self._writers:
            writer()

    def _standing(self) -> Client:
        client = self._client
        if client is None or not self.connected:
            raise BusUnavailable("not connected to the bus", code="BM3003")
        return client

    @property
    def busy(self) -> bool:
        """True while the bus takes bytes slower than they come: what can wait, waits."""
        return self._client is not None and self._client.busy

    @property
    def congested(self) -> bool:
        """True while so much waits for the bus that new requests are shed."""
        return self._client is not None and self._client.congested

    @property
    def max_payload(self) -> int:
        return self._client.max_payload if self._client is not None else 1024 * 1024


async def _close_quietly(client: Client) -> None:
    """Close a nats-py client; it may raise the very error for which it is closed, or wait for ever."""
    try:
        with contextlib.suppress(OSError, nats_errors.Error, AssertionError, AttributeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        client.cut()

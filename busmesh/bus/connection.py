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
from busmesh.bus.denial import Denial
from busmesh.bus.handover import hand_over
from busmesh.bus.options import BusOptions
from busmesh.bus.serverfacts import ServerFacts
from busmesh.errors import BusUnavailable, Denied

log = logging.getLogger(__name__)

#: Attempts follow each other at a random 50 ms to 500 ms: service is back within a second of the bus, and a
#: thousand agents do not return in one instant.
RECONNECT_FIRST_S = 0.2
RECONNECT_MAX_S = 0.5
#: Who is refused tries less often, down to this: nothing but another login will help.
REFUSED_MAX_S = 4.0
WATCHDOG_INTERVAL_S = 1.0
WATCHDOG_TIMEOUT_S = 0.8
WATCHDOG_MISSES = 2
#: For the last messages to leave; a server that hangs does not get longer.
CLOSE_S = 1.0
#: Refused subjects that are remembered, so that each is logged once.
DENIALS_SAID = 256


class _LoginRefused(Exception):
    """The server said that it does not know this login."""


class Connection:
    """A connection that outlives servers, restarts and revoked logins."""

    def __init__(self, options: BusOptions, rng: random.Random | None = None) -> None:
        self.options = options
        self.connected = False
        self.permission_errors = 0
        self._denials: set[Denial] = set()
        self.reconnects = -1  # the first connection is none
        self.inbox = f"{options.inbox_prefix}.{secrets.token_hex(8)}"
        self._rng = rng or random.Random()
        self._client: Client | None = None
        self._watchers: list[Callable[[bool], None]] = []
        self._writers: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: set[asyncio.Task[None]] = set()  # each ends within CLOSE_S by itself
        self._closing = self._rebuilding = False
        self._last_error = ""

    # -- what the user of the connection has to do with it ----------------------------------------

    def _restore(self, client: Client) -> None:
        """Give a new client what the one before it had."""

    def _denied(self, denial: Denial) -> None:
        """Hear that the server refused a publish or a subscription."""

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
        client = await self._open()
        if client is None:
            return False
        self._client = client
        self._restore(client)
        self._stand()
        return True

    async def _open(self) -> Client | None:
        """Return a new client that is connected; None, and why in ``_last_error``, if no server took it.

        Raises:
            Denied: the server refused the login.
        """
        client = Client(
            lambda standing: self._on_state(standing) if self._client is client else None,
            self._no_longer_busy,
            self._on_denied,
        )
        opened = False

        # What a client that was given up still has to say concerns nobody.
        async def reconnected() -> None:
            if self._client is client:
                self._on_reconnected()

        async def closed() -> None:
            if self._client is client:
                self._on_closed()

        async def failed(error: Exception) -> None:
            self._on_error(error)
            if self._client is not client and _about_login(str(error).lower()):
                raise _LoginRefused(str(error))  # ends nats-py's tries, which would go on

        try:
            async with asyncio.timeout(3.0):
                arguments, nkey = self.options.arguments()
                client.known_by(nkey)
                if self.options.encrypts:
                    client.insist_on_tls()
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
                    **arguments,
                )
            opened = True
        except _LoginRefused as error:
            raise Denied(
                f"the bus refused the login: {error}",
                code="BM3002",
                hint=self.options.login_hint(),
            ) from None
        except (TimeoutError, OSError, nats_errors.Error) as error:
            self._last_error = self._last_error or str(error) or type(error).__name__
            return None
        finally:
            if not opened:  # also when whoever connects loses patience
                self._part_from(client)
        return client

    async def renew_login(self) -> bool:
        """Go over to a connection with the login of now, if one stands; nothing is lost on the way.

        Returns:
            False if that failed: the old connection serves on until the server ends it.
        """
        old = self._client
        if old is None or not self.connected:
            return True  # the next connection will show it
        try:
            new = await self._open()
        except Denied as error:
            log.error("bus: the renewed login is of no use: %s", error)
            return False
        if new is None:
            return False
        if self._client is not old or not old.is_connected:  # lost meanwhile; the next one shows the login
            self._part_from(new)
            return True
        self._client = new
        self._restore(new)
        try:
            await hand_over(old, new)
        finally:
            self._part_from(old)
        return True

    def _part_from(self, client: Client) -> None:
        client.cut()
        self._own(_close_quietly(client), self._farewells)

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
        if not (self._closing or self._rebuilding):
            self._rebuilding = True
            self._own(self._rebuild())

    async def _rebuild(self) -> None:
        log.warning(
            "bus: the client was closed (%s); building a new one", self._last_error or "no reason given"
        )
        longest = RECONNECT_MAX_S
        while not self._closing:
            await asyncio.sleep(self._rng.uniform(0.1, longest))
            try:
                if await self._connect_once():
                    break
                longest = RECONNECT_MAX_S
            except Denied:  # until the login is known again, which may be never: it may have been revoked
                longest = min(2 * longest, REFUSED_MAX_S)
            except Exception:  # whatever it is, giving up would cut the agent off for good
                log.exception("bus: the connection could not be built anew")
        self._rebuilding = False

    def _on_error(self, error: Exception) -> None:
        text = str(error)
        if text and text != self._last_error:
            log.info("bus: %s (%s); trying on", text, ", ".join(self.options.servers))
        self._last_error = text or type(error).__name__

    def _on_denied(self, text: str) -> None:
        self.permission_errors += 1
        denial = Denial.parse(text, self.options.holder())
        if denial is None:
            log.error("bus: %s", text)
            return
        if denial not in self._denials:  # once per subject: who is refused may try each second
            if len(self._denials) >= DENIALS_SAID:
                self._denials.clear()
            self._denials.add(denial)
            log.error("bus: BM3004 %s\n  -> %s", denial.message, denial.hint)
        self._denied(denial)

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
            if client is not None and client.is_closed:
                # nats-py does not always say so: not of one that the server ends in its first moment, as it
                # does when a login is in its last second.
                self._on_closed()
                misses = 0
                continue
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
    def server(self) -> ServerFacts:
        """The server in use.

        Raises:
            BusUnavailable: not connected.
        """
        return self._standing().facts

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


def _about_login(text: str) -> bool:
    return "authorization" in text or "authentication" in text


async def _close_quietly(client: Client) -> None:
    """Close a nats-py client; it may raise the very error for which it is closed, or wait for ever."""
    try:
        with contextlib.suppress(OSError, nats_errors.Error, AssertionError, AttributeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        client.cut()

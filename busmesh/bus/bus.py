"""The bus as the rest of busmesh sees it: publish, subscribe, ask; connected or not.

Publishing is synchronous and refused while the connection is down. Handlers run synchronously on the
reading callback, so they only dispatch. Reconnecting goes on for ever, with jitter; a watchdog proves the
connection by a round trip each second, because nats-py alone takes minutes to notice a frozen server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Server

from busmesh.bus.client import Client, Handler
from busmesh.bus.messages import Message, Waiting, parse_headers, render_headers
from busmesh.bus.options import BusOptions
from busmesh.bus.subjects import published, subscribed
from busmesh.errors import BusUnavailable, Denied, UsageError

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
#: Answers of 5,000 instances have a tenth of this.
MAX_GATHERED = 64 * 1024 * 1024


class _LoginRefused(Exception):
    """The server said that it does not know this login."""


class Bus:
    """A connection to the bus that outlives servers, restarts and revoked logins."""

    def __init__(self, options: BusOptions, rng: random.Random | None = None) -> None:
        self.options = options
        self.connected = False
        self.permission_errors = 0
        self.reconnects = -1  # the first connection is none
        self._rng = rng or random.Random()
        self._client: Client | None = None
        self._subscriptions: dict[int, _Subscription] = {}
        self._numbers = iter(range(1, 1 << 62))
        self._waiting: dict[bytes, Waiting] = {}
        self._watchers: list[Callable[[bool], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells: set[asyncio.Task[None]] = set()  # each ends within CLOSE_S by itself
        self._closing = False
        self._last_error = ""
        self.inbox = f"{options.inbox_prefix}.{secrets.token_hex(8)}"

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<Bus {state} subscriptions={len(self._subscriptions)} waiting={len(self._waiting)}>"

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
        await self.subscribe(f"{self.inbox}.*", self._on_answer)
        self._own(self._watch())

    async def _connect_once(self) -> bool:
        client = Client(lambda standing: self._on_state(standing) if self._client is client else None)

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
        for subscription in self._subscriptions.values():
            subscription.sid = client.attach(subscription.subject, subscription.handler)
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
            for waiting in list(self._waiting.values()):
                waiting.fail(BusUnavailable("the bus connection was lost", code="BM3003"))
            self._tell(False)

    def _tell(self, standing: bool) -> None:
        for watcher in list(self._watchers):
            try:
                watcher(standing)
            except Exception:  # one watcher's bug must not end the reconnecting
                log.exception("bus: a watcher of the connection failed")

    def _on_reconnected(self) -> None:
        log.info("bus: connected again")
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
            for waiting in list(self._waiting.values()):
                if f'"{waiting.subject.lower()}"' in text:
                    waiting.fail(Denied(f"the bus refused: {text}", code="BM3004"))
            return
        if text and text != self._last_error:
            log.info("bus: %s", text)
        self._last_error = text or type(error).__name__

    def _next_server(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
        """Choose the server tried least; wait a random while that grows with the tries."""
        server = min(servers, key=lambda s: s.reconnects)
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

    # -- publishing ------------------------------------------------------------------------------

    def _standing(self) -> Client:
        client = self._client
        if client is None or not self.connected:
            raise BusUnavailable("not connected to the bus", code="BM3003")
        return client

    @property
    def congested(self) -> bool:
        """True while the bus takes bytes slower than they come: new requests are shed."""
        return self._client is not None and self._client.congested

    @property
    def max_payload(self) -> int:
        return self._client.max_payload if self._client is not None else 1024 * 1024

    def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish one message; nothing is kept for later.

        Raises:
            BusUnavailable: not connected.
            UsageError: what is published is larger than the server takes, or a subject or header is none.
        """
        client = self._standing()
        to = b"%b %b" % (published(subject), published(reply) if reply else b"")
        block = render_headers(headers) if headers else b""
        size = len(block) + len(payload)
        if size > client.max_payload:
            raise UsageError(f"{size} bytes exceed the bus's limit of {client.max_payload}", code="BM3005")
        if block:
            client.send(b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(block), size, block, payload))
        else:
            client.send(b"PUB %b %d\r\n%b\r\n" % (to, size, payload))

    def write(self, frame: bytes) -> None:
        """Publish on the request path: a complete ``PUB`` frame, made from parts prepared per peer.

        While disconnected it is dropped: the caller looks at ``connected`` and has a deadline.
        """
        if self.connected:
            self._client.send(frame)  # type: ignore[union-attr]  # connected implies a client

    # -- subscribing -----------------------------------------------------------------------------

    async def subscribe(self, subject: str, handler: Handler) -> int:
        """Have ``handler`` called for each message, now and after each reconnect.

        Returns:
            A number for :meth:`unsubscribe`.

        Raises:
            UsageError: ``subject`` is none.
        """
        subscribed(subject)
        number = next(self._numbers)
        subscription = self._subscriptions[number] = _Subscription(subject, handler)
        if self._client is not None:
            subscription.sid = self._client.attach(subject, handler)
        return number

    async def unsubscribe(self, number: int) -> None:
        subscription = self._subscriptions.pop(number, None)
        if subscription is not None and subscription.sid is not None and self._client is not None:
            self._client.detach(subscription.sid)

    # -- asking ----------------------------------------------------------------------------------

    def _on_answer(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        waiting = self._waiting.get(subject.rpartition(b".")[2])
        if waiting is not None:
            parsed = parse_headers(headers) if headers else {}
            text = subject.decode("utf-8", "replace")
            waiting.take(Message(text, payload, reply.decode("utf-8", "replace"), parsed))

    @contextlib.asynccontextmanager
    async def _asking(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, *, budget: int
    ) -> AsyncIterator[Waiting]:
        key = secrets.token_hex(8).encode()
        waiting = self._waiting[key] = Waiting(subject, budget)
        try:
            self.publish(subject, payload, f"{self.inbox}.{key.decode()}", headers)
            yield waiting
        finally:
            del self._waiting[key]

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        timeout: float = 1.0,
        headers: dict[str, str] | None = None,
    ) -> Message:
        """Publish and return the first answer.

        Raises:
            BusUnavailable: not connected, nobody listens (code BM3006), or no answer in ``timeout`` seconds.
            Denied: the login lacks the right to publish there.
        """
        async with self._asking(subject, payload, headers, budget=1) as waiting:
            try:
                async with asyncio.timeout(timeout):
                    message = await waiting.next()
            except TimeoutError:
                raise BusUnavailable(f"no answer on {subject} within {timeout:g} s", code="BM3007") from None
        if message.headers.get("Status") == "503":
            raise BusUnavailable(f"nobody listens on {subject}", code="BM3006")
        return message

    async def gather(self, subject: str, payload: bytes = b"", *, timeout: float = 0.5) -> list[Message]:
        """Publish and return every answer that comes within ``timeout`` seconds (none: an empty list).

        At most :data:`MAX_GATHERED` bytes are taken; anybody may send answers.

        Raises:
            BusUnavailable: not connected, or the connection was lost meanwhile.
            Denied: the login lacks the right to publish there.
        """
        answers: list[Message] = []
        async with self._asking(subject, payload, budget=MAX_GATHERED) as waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while True:
                        message = await waiting.next()
                        if message.headers.get("Status") == "503":
                            break
                        answers.append(message)
        return answers

    def statistics(self) -> dict[str, int | bool]:
        client = self._client
        return {
            "connected": self.connected,
            "congested": self.congested,
            "reconnects": max(0, self.reconnects),
            "subscriptions": len(self._subscriptions),
            "waiting": len(self._waiting),
            "bad_messages": client.bad_messages if client else 0,
            "handler_errors": client.handler_errors if client else 0,
            "permission_errors": self.permission_errors,
        }


@dataclass(slots=True)
class _Subscription:
    subject: str
    handler: Handler
    sid: int | None = None


async def _close_quietly(client: Client) -> None:
    """Close a nats-py client; it may raise the very error for which it is closed, or wait for ever."""
    try:
        with contextlib.suppress(OSError, nats_errors.Error, AssertionError, AttributeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await client.close()
    finally:
        client.cut()

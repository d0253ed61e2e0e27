"""The bus as the rest of busmesh sees it: publish, subscribe, ask; connected or not.

Publishing is synchronous and refused while the connection is down: what was not sent in time is not sent
late. Handlers run synchronously on the reading callback, so they only dispatch.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from nats import errors as nats_errors

from busmesh.bus.client import Client, Handler
from busmesh.bus.connection import Connection
from busmesh.bus.denial import Denial
from busmesh.bus.messages import Message, Waiting, parse_headers, render_headers
from busmesh.bus.options import BusOptions
from busmesh.bus.subjects import published, subscribed
from busmesh.errors import BusUnavailable, Denied, UsageError

#: Answers of 5,000 instances have a tenth of this.
MAX_GATHERED = 64 * 1024 * 1024


@dataclass(slots=True)
class _Subscription:
    subject: str
    handler: Handler
    sid: int | None = None


class Bus(Connection):
    """Messages over one connection; subscriptions outlive it."""

    def __init__(self, options: BusOptions, rng: random.Random | None = None) -> None:
        super().__init__(options, rng)
        # Number 0 hears the answers to all questions: one wildcard for all of them.
        self._subscriptions = {0: _Subscription(f"{self.inbox}.>", self._on_answer)}
        self._key_at = len(self.inbox) + 1
        self._numbers = iter(range(1, 1 << 62))
        self._waiting: dict[bytes, Waiting] = {}
        self.on_connection(self._fail_questions)

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<Bus {state} subscriptions={len(self._subscriptions)} waiting={len(self._waiting)}>"

    def _restore(self, client: Client) -> None:
        for subscription in self._subscriptions.values():
            subscription.sid = client.attach(subscription.subject, subscription.handler)

    def _fail_questions(self, standing: bool) -> None:
        if not standing:
            for waiting in list(self._waiting.values()):
                waiting.fail(BusUnavailable("the bus connection was lost", code="BM3003"))

    def _denied(self, denial: Denial) -> None:
        for waiting in list(self._waiting.values()):
            if denial.publishing and waiting.subject == denial.subject:
                waiting.fail(Denied(denial.message, code="BM3004", hint=denial.hint))

    async def close(self) -> None:
        """Send what was published, fail the questions under way, and end."""
        self._fail_questions(False)
        await super().close()

    # -- publishing ------------------------------------------------------------------------------

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

    async def settled(self) -> None:
        """Return when the server has taken all that was subscribed and published so far.

        Raises:
            BusUnavailable: not connected, or no answer.
        """
        try:
            await self._standing().rtt()
        except (OSError, TimeoutError, nats_errors.Error) as error:
            raise BusUnavailable(f"the bus does not answer: {error}", code="BM3003") from None

    async def unsubscribe(self, number: int) -> None:
        subscription = self._subscriptions.pop(number, None)
        if subscription is not None and subscription.sid is not None and self._client is not None:
            self._client.detach(subscription.sid)

    # -- asking ----------------------------------------------------------------------------------

    def _on_answer(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        # Agents answer below the reply subject, by their own names; the server and the authority at it.
        waiting = self._waiting.get(subject[self._key_at :].partition(b".")[0])
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

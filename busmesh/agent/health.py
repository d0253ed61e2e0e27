"""The health checker: asks the application, and hears from the request path when it cannot be reached."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from busmesh.actors.actor import Actor
from busmesh.agent.definition import Health as HealthSettings
from busmesh.decide.health import Health, observe
from busmesh.policy.fields import seconds
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application, PoolLimits
from busmesh.relay.application.rendering import render_request

log = logging.getLogger(__name__)


class Unreachable:
    """A request found nobody listening: no need to wait for the next check."""


class HealthChecker(Actor[Unreachable]):
    """Checks one application.

    Args:
        address: host and port of the application.
        settings: from the agent definition.
        changed: called with True or False at each change.
    """

    capacity = 16

    def __init__(
        self, address: tuple[str, int], settings: HealthSettings, changed: Callable[[bool], None]
    ) -> None:
        super().__init__("health")
        self.interval = seconds(settings.interval)
        self._timeout = seconds(settings.timeout)
        self._settings = settings
        self._address = address
        self._changed = changed
        # Its own connections: a check must not wait behind requests, or overload would look like a hang.
        self._application = Application(*address, PoolLimits(connections=1, pending=1, body=64 * 1024))
        self.health = Health()
        self.last_error = "not checked yet"

    async def started(self) -> None:
        await self.tick()

    async def receive(self, message: Unreachable) -> None:
        self.last_error = "nobody accepts connections"
        self._set(Health(False))

    async def tick(self) -> None:
        error = await self._check()
        if error:
            self.last_error = error
        settings = self._settings
        self._set(
            observe(
                self.health,
                not error,
                unhealthy_after=settings.unhealthy_after,
                healthy_after=settings.healthy_after,
            )
        )

    def _set(self, health: Health) -> None:
        before, self.health = self.health, health
        if health.healthy is not None and health.healthy != before.healthy:
            if health.healthy:
                log.info("the application is healthy")
            else:
                log.warning("the application is unhealthy: %s", self.last_error)
            self._changed(health.healthy)

    async def _check(self) -> str:
        """Return what is wrong, or nothing."""
        try:
            async with asyncio.timeout(self._timeout):
                return await (self._get() if self._settings.path else self._connect())
        except TimeoutError:
            return f"no answer within {self._settings.timeout}"

    async def _get(self) -> str:
        answer: asyncio.Future[AppResponse | AppFailure] = asyncio.get_running_loop().create_future()
        host, port = self._address
        headers = f"Host: {host}:{port}\r\nUser-Agent: busmesh-health\r\n".encode()
        message = render_request(b"GET", self._settings.path.encode(), headers, b"")

        def done(result: AppResponse | AppFailure) -> None:
            if not answer.done():
                answer.set_result(result)

        call = Call(b"GET", message, done)
        self._application.send(call)
        try:
            result = await answer
        finally:
            if not answer.done() or answer.cancelled():
                call.cancel()
        if isinstance(result, AppFailure):
            return result.message
        return "" if 200 <= result.status < 400 else f"{self._settings.path} answered {result.status}"

    async def _connect(self) -> str:
        try:
            _, writer = await asyncio.open_connection(*self._address)
        except OSError as error:
            return f"no connection to {self._address[0]}:{self._address[1]}: {error}"
        writer.close()
        return ""

    async def stopped(self) -> None:
        self._application.close()

"""The address of an actor behind a subject: told and asked like one in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError, UsageError

log = logging.getLogger(__name__)
M = TypeVar("M")


class SubjectAddress(Generic[M]):
    """Whoever listens on ``subject``.

    Args:
        bus: the connection.
        subject: where messages go.
        encode: writes a message as bytes.
    """

    def __init__(self, bus: Bus, subject: str, encode: Callable[[M], bytes]) -> None:
        self._bus = bus
        self._subject = subject
        self._encode = encode
        self.refused = 0

    def tell(self, message: M) -> bool:
        """Publish; False, and counted, if the bus is not there or the message too large."""
        try:
            self._bus.publish(self._subject, self._encode(message))
        except UsageError as error:
            log.warning("a message for %s was not sent: %s", self._subject, error)
        except BusmeshError:
            pass
        else:
            return True
        self.refused += 1
        return False

    async def ask(self, message: M, timeout: float) -> Any:
        """Publish and return the payload of the first answer (see :meth:`Bus.request` for the errors)."""
        return (await self._bus.request(self._subject, self._encode(message), timeout=timeout)).payload

    def __repr__(self) -> str:
        return f"<SubjectAddress {self._subject} refused={self.refused}>"

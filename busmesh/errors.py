"""Every error that busmesh raises on purpose, in one shallow tree.

An error says whose fault it is (its class), has a stable ``code``, one line that names the
service or instance concerned, and a ``hint``: the next thing that an operator can do.
"""

from __future__ import annotations

from typing import ClassVar


class BusmeshError(Exception):
    """Base of the tree. ``exit_status`` is what the command line ends with."""

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.code} {self.message}" if self.code else self.message
        return f"{head} ({self.hint})" if self.hint else head


class UsageError(BusmeshError):
    """The caller of a command or of an API asked for something that cannot be."""

    exit_status = 2


class BusUnavailable(BusmeshError):
    """The bus cannot be reached, or stopped answering."""

    exit_status = 3


class Denied(BusmeshError):
    """The bus, the authority or a policy said no."""

    exit_status = 4


class InvalidDocument(BusmeshError):
    """A document is refused; nothing of it took effect."""

    exit_status = 5


class NotFound(BusmeshError):
    """A service, instance, document or revision that nobody knows."""

    exit_status = 6


class InvalidName(UsageError):
    """A name that may not become part of a subject or of a SPIFFE ID."""


class RemoteProtocolError(BusmeshError):
    """A peer, an application or the bus sent bytes that break a protocol; they were dropped."""


class IdentityError(Denied):
    """A certificate, signature or enrolment does not prove what it claims."""

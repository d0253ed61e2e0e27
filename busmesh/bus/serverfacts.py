"""What a server said of itself when a connection began, and what is known of the way to it."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server, as a client sees it.

    Attributes:
        address: ``host:port`` of the server in use.
        asks_for_login: it lets in nobody who does not prove to be somebody.
        encrypted: what passes between client and server is under TLS.
        certificate_ends: when the server's certificate ends, unix seconds; None without TLS.
        version: of nats-server; empty if it does not say.
    """

    address: str
    asks_for_login: bool
    encrypted: bool
    certificate_ends: float | None = None
    version: str = ""

    @classmethod
    def of(cls, address: str, info: Mapping[str, Any], transport: Any) -> ServerFacts:
        """Read the server's INFO and the connection.

        Args:
            address: of the server in use.
            info: what the server sent; believed in nothing that matters.
            transport: asyncio's, with or without TLS.
        """
        encrypted = transport is not None and transport.get_extra_info("sslcontext") is not None
        certificate = transport.get_extra_info("peercert") if encrypted else None
        ends = certificate.get("notAfter") if isinstance(certificate, dict) else None
        version = info.get("version")
        return cls(
            address,
            info.get("auth_required") is True,
            encrypted,
            ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None,
            version[:32] if isinstance(version, str) else "",
        )

    @property
    def on_loopback(self) -> bool:
        """Whether what passes stays on this machine."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

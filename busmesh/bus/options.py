"""Where the bus is and how to log in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class BusOptions:
    """Where the bus is and how to log in.

    Attributes:
        servers: NATS URLs; any of them will do.
        name: shown by ``nats server report connections``.
        inbox_prefix: prefix of this client's own inboxes, never shared.
        credentials: a NATS ``.creds`` file.
        nkey: a file with an nkey seed.
        tls_ca: PEM file with the authorities that sign the servers' certificates.
    """

    servers: tuple[str, ...]
    name: str
    inbox_prefix: str
    credentials: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None

    def login(self) -> dict[str, Any]:
        """Return what nats-py's ``connect`` is told about servers and login."""
        options: dict[str, Any] = {"servers": list(self.servers), "name": self.name}
        if self.credentials is not None:
            options["user_credentials"] = str(self.credentials)
        if self.nkey is not None:
            options["nkeys_seed"] = str(self.nkey)
        if self.tls_ca is not None:
            options["tls"] = ssl.create_default_context(cafile=str(self.tls_ca))
        return options

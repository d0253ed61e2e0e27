"""Where the bus is and how to log in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busmesh.errors import UsageError


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
        """Return what nats-py's ``connect`` is told about servers and login.

        Raises:
            UsageError: a file cannot be read; waiting for it would look like waiting for the bus.
        """
        for what, file in (("credentials", self.credentials), ("nkey", self.nkey), ("TLS CA", self.tls_ca)):
            if file is not None:
                _check_readable(what, file)
        options: dict[str, Any] = {"servers": list(self.servers), "name": self.name}
        if self.credentials is not None:
            options["user_credentials"] = str(self.credentials)
        if self.nkey is not None:
            options["nkeys_seed"] = str(self.nkey)
        if self.tls_ca is not None:
            try:
                options["tls"] = ssl.create_default_context(cafile=str(self.tls_ca))
            except ssl.SSLError as error:
                raise UsageError(
                    f"the TLS CA file {self.tls_ca} holds no certificate: {error.reason}", code="BM3008"
                ) from None
        return options


def _check_readable(what: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise UsageError(
            f"the {what} file {file} cannot be read: {error.strerror}",
            code="BM3008",
            hint="name one that exists and that this user may read",
        ) from None

"""Where the bus is and how to log in."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from busmesh.bus.login import Credentials, Login
from busmesh.bus.nkeys import KeyPair
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
        login: shown at each connection, unless a file says otherwise.
    """

    servers: tuple[str, ...]
    name: str
    inbox_prefix: str
    credentials: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None
    login: Login | None = None

    @property
    def encrypts(self) -> bool:
        """Whether the bus is only to be spoken to under TLS."""
        return self.tls_ca is not None or any(url.startswith("tls://") for url in self.servers)

    def arguments(self) -> tuple[dict[str, Any], str | None]:
        """Return what nats-py's ``connect`` is told, and the nkey if that is the login.

        Raises:
            UsageError: a file cannot be read; waiting for it would look like waiting for the bus.
        """
        for what, file in (("credentials", self.credentials), ("nkey", self.nkey), ("TLS CA", self.tls_ca)):
            if file is not None:
                _check_readable(what, file)
        options: dict[str, Any] = {"servers": list(self.servers), "name": self.name}
        login = self._login()
        if login is not None:
            options |= login.arguments()
        if self.tls_ca is not None:
            try:
                options["tls"] = ssl.create_default_context(cafile=str(self.tls_ca))
            except ssl.SSLError as error:
                raise UsageError(
                    f"the TLS CA file {self.tls_ca} holds no certificate: {error.reason}", code="BM3008"
                ) from None
        return options, login.public_key if login is not None else None

    def _login(self) -> Login | None:
        """Return what the files say, read anew at each connection; without files, the options' own login."""
        if self.credentials is not None:
            return Login(read=partial(_read, self.credentials, "credentials", Credentials.parse))
        if self.nkey is not None:
            return Login(
                read=partial(_read, self.nkey, "nkey", lambda text: Credentials(KeyPair.parse(text)))
            )
        return self.login

    def holder(self) -> str:
        """Return whose login it is, as the login itself says; empty if it says nothing or there is none."""
        try:
            login = self._login()
        except UsageError:
            return ""
        return login.holder if login is not None else ""

    def grants(self, subject: str) -> bool:
        """Say whether the login names this very subject to publish to; one that cannot be read does not."""
        try:
            login = self._login()
        except UsageError:
            return False
        return login is not None and login.credentials is not None and login.credentials.grants(subject)

    def login_hint(self) -> str:
        """Return what to do when the server does not know the login."""
        for flag, file in (("--creds", self.credentials), ("--nkey", self.nkey)):
            if file is not None:
                return f"{flag} names {file}: is it of this bus, and not expired?"
        if self.login is not None and self.login.credentials is not None:
            return (
                "is it of this bus, and neither expired nor taken back? a newcomer needs the whole file of a "
                "join token that still lets in: --join"
            )
        return (
            "this bus asks for a login: name the home of its mesh (--home, BUSMESH_HOME), a join token "
            "(--join), or a NATS credentials file (--creds)"
        )


def _read(file: Path, what: str, parse: Callable[[str], Credentials]) -> Credentials:
    try:
        return parse(file.read_text(encoding="ascii", errors="replace"))
    except OSError:
        raise UsageError(f"the {what} file {file} cannot be read", code="BM3008") from None
    except UsageError as error:
        raise UsageError(
            f"the {what} file {file}: {error.message}", code=error.code, hint=error.hint
        ) from None


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

"""The join ticket: all that a machine needs to join a mesh, as one file.

::

    busmesh-join.1.<mesh>.<id>.<secret>
    bus tls://bus.example.org:4222
    login eyJ0eXAiOi...
    -----BEGIN CERTIFICATE----- ...

The first line is the join token; it alone is enough for a bus that asks nobody for a login. The login is a
JWT for the key that follows from the token's secret, and good for asking to be enrolled and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from busmesh.bus.login import Credentials
from busmesh.errors import IdentityError
from busmesh.identity.jointoken import JoinToken

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JoinTicket:
    """A join token and the way to the bus.

    Attributes:
        token: proves to the authority that its holder may join.
        bus: NATS URLs, separated by commas; empty if the holder must know.
        login: a JWT for `JoinToken.bus_key`; empty for a bus without logins.
        roots: PEM certificates that vouch for the bus's own; empty for those that the machine trusts.
    """

    token: JoinToken
    bus: str = ""
    login: str = field(default="", repr=False)
    roots: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> JoinTicket:
        """Read the text form.

        Raises:
            IdentityError: it is none (code BM4201). The error does not quote it.
        """
        pem = _PEM.search(text)
        lines = [line.strip() for line in text[: pem.start() if pem else None].splitlines() if line.strip()]
        token = JoinToken.parse(lines[0] if lines else "")
        known: dict[str, str] = {}
        for line in lines[1:]:
            word, _, value = line.partition(" ")
            if word not in ("bus", "login") or not value.strip() or word in known:
                raise IdentityError(
                    "the join token is followed by what does not belong there",
                    code="BM4201",
                    hint="copy the file as it is; after the token come `bus`, `login` and certificates",
                )
            known[word] = value.strip()
        return cls(token, known.get("bus", ""), known.get("login", ""), pem.group(0).strip() if pem else "")

    def reveal(self) -> str:
        """Return the text form, secret included: for a file of mode 0600 and nothing else."""
        lines = [self.token.reveal()]
        lines += [f"{word} {value}" for word, value in (("bus", self.bus), ("login", self.login)) if value]
        return "\n".join([*lines, self.roots.strip()]).strip()

    @property
    def credentials(self) -> Credentials | None:
        """The login of a newcomer; None for a bus without logins."""
        return Credentials(self.token.bus_key(), self.login) if self.login else None

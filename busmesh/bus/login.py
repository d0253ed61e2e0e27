"""A login to the bus: a JWT and the key that proves it, or the key alone.

It is asked at every connection, so what a renewal puts in place is what the next reconnect shows.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from busmesh.bus.jwt import claims_of
from busmesh.bus.nkeys import KeyPair
from busmesh.errors import BusmeshError, UsageError

log = logging.getLogger(__name__)

_BLOCK = r"-{3,}BEGIN %s-{3,}\s+(\S+)\s+-{3,}END %s-{3,}"
_JWT = re.compile(_BLOCK % ("NATS USER JWT", "NATS USER JWT"))
_WRITER = re.compile(_BLOCK % ("LOG WRITER JWT", "LOG WRITER JWT"))
_SEED = re.compile(_BLOCK % ("USER NKEY SEED", "USER NKEY SEED"))


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves a login.

    Attributes:
        key: signs what the server asks to be signed.
        jwt: says who the holder is and may do what; empty for a server that knows the key itself.
        writer: the same for the account of the logs of a locked bus; empty for who does not write to them.
    """

    key: KeyPair = field(repr=False)
    jwt: str = field(repr=False, default="")
    writer: str = field(repr=False, default="")

    @classmethod
    def parse(cls, text: str) -> Credentials:
        """Read a ``.creds`` file as `nsc` and the `nats` command write it.

        One of ours may have a third block, which they pass over: see :meth:`writing`.

        Raises:
            UsageError: it lacks the JWT or the seed (code BM3011).
        """
        jwt, seed, writer = _JWT.search(text), _SEED.search(text), _WRITER.search(text)
        if jwt is None or seed is None:
            raise UsageError("it does not hold a NATS user JWT and its nkey seed", code="BM3011")
        return cls(KeyPair.parse(seed.group(1)), jwt.group(1), writer.group(1) if writer else "")

    def reveal(self) -> str:
        """Return the text of a ``.creds`` file, seed included: for a file of mode 0600 and nothing else."""
        writer = f"\n-----BEGIN LOG WRITER JWT-----\n{self.writer}\n------END LOG WRITER JWT------\n"
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.key.reveal()}\n------END USER NKEY SEED------\n"
            f"{writer if self.writer else ''}"
        )

    @property
    def writing(self) -> Credentials | None:
        """The login by which the same holder writes to the logs; None: by this one, or not at all."""
        return Credentials(self.key, self.writer) if self.writer else None

    @property
    def expires(self) -> float | None:
        """When the server will cut it off, unix seconds; None is never."""
        until = claims_of(self.jwt).get("exp")
        return float(until) if isinstance(until, int | float) and 0 <= until < 1 << 53 else None

    def inbox_prefix(self, root: str) -> str | None:
        """Return the prefix of the one inbox below ``root`` that this login may hear; None if it has none."""
        nats = claims_of(self.jwt).get("nats")
        granted = nats.get("sub") if isinstance(nats, dict) else None
        allowed = granted.get("allow") if isinstance(granted, dict) else None
        for subject in allowed if isinstance(allowed, list) else ():
            if isinstance(subject, str) and subject.startswith(f"{root}.inbox.") and subject.endswith(".>"):
                return subject.removesuffix(".>")
        return None

    def grants(self, subject: str) -> bool:
        """Say whether the login names this very subject as one to publish to."""
        nats = claims_of(self.jwt).get("nats")
        granted = nats.get("pub") if isinstance(nats, dict) else None
        allowed = granted.get("allow") if isinstance(granted, dict) else None
        return isinstance(allowed, list) and subject in allowed


class Login:
    """What is shown to the server at each connection; empty for a bus that asks nobody.

    Args:
        credentials: of now.
        read: finds them anew at each connection, where somebody else replaces them; None: there are none.
    """

    def __init__(
        self, credentials: Credentials | None = None, read: Callable[[], Credentials | None] | None = None
    ) -> None:
        self._read = read
        self.credentials = read() if read is not None else credentials

    def __repr__(self) -> str:
        held = self.credentials
        return f"<Login {'empty' if held is None else held.key.public}>"

    def use(self, credentials: Credentials | None) -> None:
        """Show ``credentials`` from the next connection on."""
        self.credentials = credentials

    def held(self) -> Credentials | None:
        """Return the login of now, read anew if somebody else replaces it."""
        if self._read is not None:
            try:
                self.credentials = self._read()
            except BusmeshError as error:
                log.warning("bus: %s; showing the login read before", error)
        return self.credentials

    def arguments(self) -> dict[str, Any]:
        """Return what nats-py's ``connect`` is told; it calls back at every connection."""
        known = {"signature_cb": self._sign}
        if self.credentials is not None and not self.credentials.jwt:
            return known  # an nkey alone, which the client is told beside
        return {**known, "user_jwt_cb": self._jwt}

    @property
    def holder(self) -> str:
        """The name that the JWT was made for; empty without one."""
        name = claims_of(self.credentials.jwt).get("name") if self.credentials is not None else None
        return name if isinstance(name, str) else ""

    @property
    def public_key(self) -> str | None:
        """The key by which a server that is shown no JWT knows the user."""
        held = self.credentials
        return None if held is None or held.jwt else held.key.public

    def _sign(self, nonce: str) -> bytes:
        held = self.held()  # asked before the JWT at each connection, so what is read here serves both
        return b"" if held is None else base64.urlsafe_b64encode(held.key.sign(nonce.encode())).rstrip(b"=")

    def _jwt(self) -> bytes:
        return self.credentials.jwt.encode() if self.credentials is not None else b""

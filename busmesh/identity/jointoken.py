"""The join token: a secret that two machines share, so that one of them can join the mesh of the other.

The token itself is never sent. Both sides derive keys from it, one for each direction, and prove that they
have them; so a listener on the bus learns nothing, and a false authority cannot answer.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from busmesh.bus.nkeys import KEY_BYTES, KeyPair, Role
from busmesh.errors import IdentityError, InvalidName
from busmesh.identity.fields import bind
from busmesh.names import SpiffeId, token

_SECRET_BYTES = 32
_MAX_TEXT = 256
MAC_BYTES = 32
REQUEST, REPLY = b"enrol.request", b"enrol.reply"
_PATTERN = re.compile(r"[a-z0-9*-]{1,63}")


def pattern(text: str, what: str) -> str:
    """Return ``text`` if it is a name in which ``*`` may stand for any number of characters.

    Raises:
        InvalidName: anything else (code BM4211).
    """
    if _PATTERN.fullmatch(text) is None:
        raise InvalidName(
            f"{what} {text[:80]!r} is neither a name nor a pattern of names",
            code="BM4211",
            hint="use a-z, 0-9 and '-', and * for any number of characters: orders, shop-*, *",
        )
    return text


def within(narrow: str, wide: str) -> bool:
    """Say whether whatever the pattern ``narrow`` matches, ``wide`` matches too.

    A ``*`` in ``narrow`` can only be matched by one in ``wide``, so comparing the text settles it.
    """
    return fnmatchcase(narrow, wide)


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Written ``busmesh-join.1.<mesh>.<id>.<secret>``, the secret in base64url.

    Attributes:
        mesh: the mesh that it lets in to.
        id: names the token to the authority; no secret.
        secret: 32 random bytes; never shown, logged or sent.
    """

    mesh: str
    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, mesh: str) -> JoinToken:
        """Return a new token for ``mesh``.

        Raises:
            InvalidName: ``mesh`` is not a name.
        """
        return cls(token(mesh, "mesh"), secrets.token_hex(4), secrets.token_bytes(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read the text form; blanks around it do not matter.

        Raises:
            IdentityError: it is not a join token (code BM4201). The error does not quote it.
        """
        parts = text[: _MAX_TEXT + 1].strip().split(".")
        try:
            if len(text) > _MAX_TEXT or len(parts) != 5 or parts[:2] != ["busmesh-join", "1"]:
                raise ValueError
            secret = base64.b64decode(parts[4] + "=", altchars=b"-_", validate=True)
            parsed = cls(token(parts[2], "mesh"), token(parts[3], "token"), secret)
            if len(secret) != _SECRET_BYTES or parsed.reveal() != ".".join(parts):
                raise ValueError
        except (ValueError, InvalidName, binascii.Error):
            raise IdentityError(
                "this is not a join token",
                code="BM4201",
                hint="it reads busmesh-join.1.<mesh>.<id>.<secret>; copy the whole line",
            ) from None
        return parsed

    def reveal(self) -> str:
        """Return the text form, secret included: for a file of mode 0600 and nothing else."""
        secret = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"busmesh-join.1.{self.mesh}.{self.id}.{secret}"

    def bus_key(self) -> KeyPair:
        """Return the key by which a newcomer with this token logs in to a locked bus."""
        info = bind(b"bus.login", self.mesh.encode(), self.id.encode())
        seed = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self.secret)
        return KeyPair(Role.USER, seed)

    def mac(self, direction: bytes, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 over ``parts`` under this token's key for one direction."""
        info = bind(direction, self.mesh.encode(), self.id.encode())
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(self.secret)
        return hmac.digest(key, bind(direction, *parts), "sha256")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the authority lets the holder of a token become.

    Attributes:
        token: the token.
        service: pattern of service names (``*``, ``orders``, ``shop-*``).
        namespace: pattern of namespaces.
        expires: unix seconds from which on it lets nobody in; None is never.
        created: unix seconds; None if nobody wrote it down.
        description: for whom it was made, for people who look through the list.
    """

    token: JoinToken
    service: str = "*"
    namespace: str = "*"
    expires: float | None = None
    created: float | None = None
    description: str = ""

    def over(self, now: float) -> bool:
        """Say whether it lets nobody in any more, by its age."""
        return self.expires is not None and now >= self.expires

    def allows(self, spiffe_id: SpiffeId) -> bool:
        """Say whether the holder may become ``spiffe_id``: a workload of the mesh within the patterns."""
        service = spiffe_id.service
        return (
            spiffe_id.mesh == self.token.mesh
            and service is not None
            and fnmatchcase(service.name, self.service)
            and fnmatchcase(service.namespace, self.namespace)
        )

"""Ed25519 keys in NATS's own spelling: a letter that says whose key it is, base32, a checksum.

NATS proves logins by these keys and signs its JWTs with them. The format is small, and the primitive is in
`cryptography` already, so no other library takes part.

Format: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth and
https://github.com/nats-io/nkeys (``strkey.go``).
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from dataclasses import dataclass, field
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from busmesh.errors import UsageError

KEY_BYTES = 32
_SEED = 18 << 3


class Role(Enum):
    """Whose key it is; the value makes the first letter of the public key."""

    OPERATOR = 14 << 3  # O
    ACCOUNT = 0  # A
    USER = 20 << 3  # U


_ROLES = {role.value: role for role in Role}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key with its role.

    Attributes:
        role: whose key it is.
        seed: 32 secret bytes; never shown or logged.
    """

    role: Role
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, role: Role) -> KeyPair:
        return cls(role, secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> KeyPair:
        """Read a seed (``SU...``, ``SA...``, ``SO...``).

        Raises:
            UsageError: it is none (code BM3011). The error does not quote it.
        """
        raw = _decoded(text.strip())
        if raw is None or len(raw) != 2 + KEY_BYTES or raw[0] & 0xF8 != _SEED:
            raise _no_seed()
        role = _ROLES.get((raw[0] & 7) << 5 | raw[1] >> 3)
        if role is None:
            raise _no_seed()
        return cls(role, raw[2:])

    def reveal(self) -> str:
        """Return the seed as text: for a file of mode 0600 and nothing else."""
        return _encoded(bytes((_SEED | self.role.value >> 5, (self.role.value & 31) << 3)) + self.seed)

    @property
    def raw_public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> str:
        """The public key as text; it is the name of its holder as well."""
        return public_text(self.role, self.raw_public)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def verify(public: bytes, signature: bytes, data: bytes) -> bool:
    """Say whether ``signature`` is the one of ``data`` by the key with this public half."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (ValueError, InvalidSignature):
        return False
    return True


def public_text(role: Role, raw: bytes) -> str:
    """Return the text form of a public key of 32 bytes."""
    return _encoded(bytes((role.value,)) + raw)


def _encoded(data: bytes) -> str:
    checked = data + struct.pack("<H", binascii.crc_hqx(data, 0))
    return base64.b32encode(checked).decode().rstrip("=")


def _decoded(text: str) -> bytes | None:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (ValueError, binascii.Error):
        return None
    data, check = raw[:-2], raw[-2:]
    return data if check == struct.pack("<H", binascii.crc_hqx(data, 0)) else None


def _no_seed() -> UsageError:
    return UsageError(
        "this is not the seed of an nkey", code="BM3011", hint="it reads SU and 56 more of A-Z and 2-7"
    )

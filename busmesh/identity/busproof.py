"""Proof that who asks for a login to the bus holds the key that it shall be for.

A revoked login is taken back by its key. Whoever could get a login for a key that it has only seen would take
the owner of that key along when it is revoked itself.
"""

from __future__ import annotations

from busmesh.bus.nkeys import KeyPair, verify
from busmesh.errors import IdentityError
from busmesh.identity.fields import bind
from busmesh.names import SpiffeId

SIGNATURE_BYTES = 64
_LABEL = b"bus-key"


def prove(key: KeyPair | None, spiffe_id: SpiffeId, signing_request: bytes) -> tuple[bytes, bytes]:
    """Return a public key and its signature of who asks and of the request that it asks with.

    Both are empty for no key, which asks for no login.
    """
    if key is None:
        return b"", b""
    return key.raw_public, key.sign(bind(_LABEL, str(spiffe_id).encode(), signing_request))


def check(public: bytes, proof: bytes, spiffe_id: SpiffeId, signing_request: bytes) -> None:
    """Refuse a key that its sender does not prove to hold.

    Raises:
        IdentityError: the signature is not of this key, this ID and this request (code BM4207).
    """
    if not public and not proof:
        return
    if not verify(public, proof, bind(_LABEL, str(spiffe_id).encode(), signing_request)):
        raise IdentityError("the key for the bus is not proven", code="BM4207")

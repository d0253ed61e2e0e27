"""What a root signs with its own key: the few words that nobody below it may say.

Members' certificates expire within the hour; what a root said must still count for an agent that was away for
a week. And an operator's key must not be enough to replace the root, or to shut the other operators out.
"""

from __future__ import annotations

import re
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.errors import IdentityError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.fields import FieldReader, bind, pack
from busmesh.identity.profile import CLOCK_SKEW_S, SIGNATURE
from busmesh.identity.trust import TrustBundle, key_identifier

_MAX_SIGNATURE = 80
_IDENTIFIER = 20
_PURPOSE = re.compile(r"[a-z][a-z0-9.-]{0,31}")


def seal_rooted(ca: CertificateAuthority, purpose: str, body: bytes, now: float) -> bytes:
    """Return ``body`` signed by the root itself for ``purpose`` at ``now`` (unix seconds)."""
    identifier, time_ms = key_identifier(ca.certificate), int(now * 1000)
    signature = ca.private_key.sign(_covered(purpose, identifier, time_ms, body), SIGNATURE)
    return pack(identifier, time_ms, body, signature)


def open_rooted(data: bytes, purpose: str, bundle: TrustBundle, now: float, *, max_size: int) -> bytes:
    """Return the body that a root of ``bundle`` signed for ``purpose``.

    Raises:
        RemoteProtocolError: too large, malformed or of another version (codes BM4101 to BM4103).
        IdentityError: by no root of the bundle (BM4005), altered (BM4008), or dated in the future (BM4104).
    """
    reader = FieldReader(data, 4, max_size=max_size, what=f"{purpose} message")
    identifier, time_ms = reader.binary(_IDENTIFIER), reader.integer()
    body, signature = reader.binary(), reader.binary(_MAX_SIGNATURE)
    reader.end()
    root = bundle.root(identifier.hex())
    if root is None:
        raise IdentityError(f"a {purpose} message is by no root of mesh {bundle.mesh!r}", code="BM4005")
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "a bundle has no other roots"
    try:
        key.verify(signature, _covered(purpose, identifier, time_ms, body), SIGNATURE)
    except InvalidSignature:
        raise IdentityError(f"a {purpose} message is not by the root that it names", code="BM4008") from None
    if time_ms > (now + CLOCK_SKEW_S) * 1000:
        raise IdentityError(
            f"a {purpose} message is of the future", code="BM4104", hint="compare the clocks of both machines"
        )
    return body


def _covered(purpose: str, identifier: bytes, time_ms: int, body: bytes) -> bytes:
    if _PURPOSE.fullmatch(purpose) is None:
        raise ValueError(f"{purpose!r} is not a purpose")
    return bind(f"root.{purpose}".encode(), identifier, struct.pack(">Q", time_ms), body)

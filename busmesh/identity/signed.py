"""Signed envelopes: control messages whose sender, purpose and time are proven before the body is looked at.

An envelope is the record ``[1, certificate, time in ms, body, signature]``. The signature covers the purpose
too, which does not travel: whoever opens an envelope says what it must be for.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Literal

from busmesh.errors import IdentityError
from busmesh.identity.fields import FieldReader, bind, pack
from busmesh.identity.profile import CLOCK_SKEW_S, MAX_CERTIFICATE
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verified, Verifier, verify_signature

#: The cap on control messages before anything in them is decoded.
MAX_ENVELOPE = 64 * 1024
#: A DER signature on P-256 has at most 72 bytes.
_MAX_SIGNATURE = 80
#: An array of five, the version, and a certificate of up to 64 KiB.
_BEGINNINGS = (b"\x95\x01\xc4", b"\x95\x01\xc5")
_MAX_TIME_MS = (1 << 53) - 1
#: The code of the error for a message that was signed too long ago, or in the future.
UNTIMELY = "BM4104"
_PURPOSE = re.compile(r"[a-z][a-z0-9.-]{0,31}")


@dataclass(frozen=True, slots=True)
class Signed:
    """What an envelope proves.

    Attributes:
        signer: who signed. Whether they may say what the body says is for the caller to decide.
        body: the bytes that they signed, not yet decoded.
        time_ms: when they signed, by their clock, in unix milliseconds.
    """

    signer: Verified
    body: bytes = field(repr=False)
    time_ms: int


def may_be_envelope(data: bytes) -> bool:
    """Say in half a microsecond whether ``data`` begins as an envelope does and is no larger than one.

    For who takes messages from the bus: what is none need not wait in a mailbox to be refused there.
    """
    return data.startswith(_BEGINNINGS) and len(data) <= MAX_ENVELOPE


def seal_signed(svid: Svid, purpose: str, body: bytes, now: float) -> bytes:
    """Return ``body`` in an envelope signed by ``svid`` for ``purpose`` at ``now``.

    Args:
        svid: the sender's.
        purpose: what the message is ("member", "policy.revision"): a constant of the protocol, 1 to 32 of
            a-z, 0-9, '.' and '-'.
        body: any bytes; the receiver caps the envelope, by default at 64 KiB.
        now: unix seconds.

    Raises:
        ValueError: ``purpose`` is not one.
    """
    time_ms = int(now * 1000)
    return pack(svid.der, time_ms, body, svid.sign(_covered(purpose, svid.der, time_ms, body)))


def open_signed(
    data: bytes,
    purpose: str,
    verifier: Verifier,
    now: float,
    *,
    at: Literal["now", "signing"] = "now",
    max_age: float | None = None,
    max_size: int = MAX_ENVELOPE,
) -> Signed:
    """Return what the envelope ``data`` proves, or refuse it.

    Args:
        data: from anybody.
        purpose: what it must have been signed for.
        verifier: holds the roots to believe.
        now: unix seconds.
        at: when the signer's certificate must be valid. "signing" is for logs, which outlive the
            certificates of their signers: the time in the envelope counts. A thief of an expired key can
            date an envelope back, so a log must also refuse an entry older than the one before it. A signer
            who was revoked meanwhile, or whose root was retired, is returned with how far they count.
        max_age: refuse what was signed more than this many seconds ago; None leaves that to the caller.
        max_size: in bytes, checked before decoding.

    Raises:
        RemoteProtocolError: too large, malformed or of another version (codes BM4101 to BM4103).
        IdentityError: the certificate (codes BM4003 to BM4006) or the signature (BM4008) proves nothing, or
            the time is in the future or too old (BM4104).
        ValueError: ``purpose`` is not one.
    """
    reader = FieldReader(data, 4, max_size=max_size, what=f"signed {purpose} message")
    certificate = reader.binary(MAX_CERTIFICATE)
    time_ms = reader.integer()
    body = reader.binary()
    signature = reader.binary(_MAX_SIGNATURE)
    reader.end()
    signed_at = min(time_ms, _MAX_TIME_MS) / 1000
    _check_time(signed_at, now, max_age, purpose)
    if at == "signing":
        signer = verifier.signer_in_log(certificate, signed_at)
    else:
        signer = verifier.certificate(certificate, now)
    verify_signature(signer, signature, _covered(purpose, certificate, time_ms, body))
    return Signed(signer, body, time_ms)


def _check_time(signed_at: float, now: float, max_age: float | None, purpose: str) -> None:
    age = now - signed_at
    if age < -CLOCK_SKEW_S or (max_age is not None and age > max_age + CLOCK_SKEW_S):
        direction = "in the future" if age < 0 else "ago"
        raise IdentityError(
            f"a {purpose} message was signed {abs(age):.0f} s {direction}",
            code=UNTIMELY,
            hint="compare the clocks of both machines",
        )


def _covered(purpose: str, certificate: bytes, time_ms: int, body: bytes) -> bytes:
    if _PURPOSE.fullmatch(purpose) is None:
        raise ValueError(f"{purpose!r} is not a purpose")
    return bind(purpose.encode(), certificate, struct.pack(">Q", time_ms), body)

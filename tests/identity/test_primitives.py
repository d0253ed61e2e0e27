"""Published vectors for the primitives of enrolment, and the formula that puts them together."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from busmesh.identity.jointoken import REPLY, REQUEST, JoinToken


@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [
        # RFC 4231 sections 4.2, 4.3, 4.4, 4.7 and 4.8: test cases 1, 2, 3, 6 and 7
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            b"\xaa" * 131,
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm.",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ],
)
def test_hmac_sha256_of_rfc_4231(key: bytes, data: bytes, expected: str) -> None:
    assert hmac.digest(key, data, "sha256").hex() == expected


@pytest.mark.parametrize(
    ("secret", "salt", "info", "length", "expected"),
    [
        # RFC 5869 appendix A.1, A.2 and A.3
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            None,
            b"",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_sha256_of_rfc_5869(
    secret: bytes, salt: bytes | None, info: bytes, length: int, expected: str
) -> None:
    assert HKDF(hashes.SHA256(), length, salt, info).derive(secret).hex() == expected


def _framed(label: bytes, *parts: bytes) -> bytes:
    return b"busmesh/v1/" + label + b"\0" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)


@pytest.mark.parametrize("direction", [REQUEST, REPLY])
def test_token_mac_is_hmac_under_a_key_from_hkdf(direction: bytes) -> None:
    """Written out anew from RFC 5869 section 2, so that a change of the wire format is noticed."""
    token = JoinToken("local", "ab12", bytes(range(32)))
    extracted = hmac.new(bytes(32), token.secret, hashlib.sha256).digest()
    key = hmac.new(extracted, _framed(direction, b"local", b"ab12") + b"\x01", hashlib.sha256).digest()
    expected = hmac.new(key, _framed(direction, b"a", b"", b"bc"), hashlib.sha256).digest()
    assert token.mac(direction, b"a", b"", b"bc") == expected


def test_token_macs_differ_by_direction_mesh_id_and_secret() -> None:
    tokens = [
        JoinToken("local", "ab12", bytes(32)),
        JoinToken("other", "ab12", bytes(32)),
        JoinToken("local", "ab13", bytes(32)),
        JoinToken("local", "ab12", bytes(31) + b"\x01"),
    ]
    macs = {token.mac(direction, b"x") for token in tokens for direction in (REQUEST, REPLY)}
    assert len(macs) == 8

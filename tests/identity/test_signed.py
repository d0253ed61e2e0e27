"""Signed envelopes: sender, purpose and time are proven, and nothing hostile gets further."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import BusmeshError, IdentityError, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.fields import FieldReader, bind, pack
from busmesh.identity.signed import MAX_ENVELOPE, may_be_envelope, open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from tests.identity.forge import MESH, NOW, svid

BODY = b"the body, which is not decoded here"


def altered(envelope: bytes, position: int, value: object) -> bytes:
    fields = msgpack.unpackb(envelope)
    fields[position] = value
    packed: bytes = msgpack.packb(fields)
    return packed


def test_envelope_proves_sender_body_and_time(orders: Svid, verifier: Verifier) -> None:
    signed = open_signed(seal_signed(orders, "member", BODY, NOW + 0.0625), "member", verifier, NOW + 5)
    assert (signed.signer.id, signed.body, signed.time_ms) == (orders.id, BODY, int(NOW * 1000) + 62)
    assert BODY.decode() not in repr(signed)


def test_what_may_be_an_envelope_is_told_by_how_it_begins(orders: Svid) -> None:
    for size in (0, 100, MAX_ENVELOPE - 1000):
        assert may_be_envelope(seal_signed(orders, "member", bytes(size), NOW))
    for junk in (b"", b"\x95", b"\x95\x01", b"\x95\x02\xc5", b"\x93\x01\xc4", b"GET / HTTP/1.1\r\n"):
        assert not may_be_envelope(junk)
    assert not may_be_envelope(seal_signed(orders, "member", bytes(MAX_ENVELOPE), NOW))


def test_heartbeat_costs_one_signature_check(orders: Svid, verifier: Verifier) -> None:
    for beat in range(10):
        open_signed(seal_signed(orders, "member", BODY, NOW + beat), "member", verifier, NOW + beat)
    assert verifier.statistics() == {"known": 1, "capacity": 4096, "hits": 9, "misses": 1}


def test_signature_for_one_purpose_is_worthless_for_another(orders: Svid, verifier: Verifier) -> None:
    for made, wanted in (("member", "renew"), ("renew", "member"), ("member", "member2"), ("a", "a.b")):
        with pytest.raises(IdentityError, match="BM4008"):
            open_signed(seal_signed(orders, made, BODY, NOW), wanted, verifier, NOW)


@pytest.mark.parametrize("purpose", ["", "Member", "a b", "a\0b", "é", "a" * 33, "1"])
def test_purpose_is_a_word(orders: Svid, purpose: str) -> None:
    with pytest.raises(ValueError, match="purpose"):
        seal_signed(orders, purpose, BODY, NOW)


def test_no_part_can_be_exchanged(ca: CertificateAuthority, orders: Svid, verifier: Verifier) -> None:
    envelope = seal_signed(orders, "member", BODY, NOW)
    again = Svid.of(ca.issue(orders.id, orders.private_key.public_key(), NOW), orders.private_key)
    parts: list[tuple[int, object]] = [
        (1, svid(ca, "web").der),
        (1, again.der),  # the same key under another certificate
        (2, int(NOW * 1000) + 1),
        (3, BODY + b"x"),
        (3, b""),
        (4, orders.sign(BODY)),
        (4, b""),
    ]
    for position, value in parts:
        with pytest.raises(IdentityError, match="BM4008"):
            open_signed(altered(envelope, position, value), "member", verifier, NOW)


def test_every_flipped_or_missing_byte_is_refused(orders: Svid, verifier: Verifier) -> None:
    envelope = seal_signed(orders, "member", BODY, NOW)
    for position in range(len(envelope)):
        flipped = bytearray(envelope)
        flipped[position] ^= 0x01
        for bad in (bytes(flipped), envelope[:position]):
            with pytest.raises(BusmeshError):
                open_signed(bad, "member", verifier, NOW)


def test_certificate_of_another_mesh_or_root_proves_nothing(
    other_ca: CertificateAuthority, verifier: Verifier
) -> None:
    elsewhere = CertificateAuthority.create("elsewhere", NOW)
    for stranger, code in ((svid(other_ca, "orders"), "BM4005"), (svid(elsewhere, "orders"), "BM4004")):
        with pytest.raises(IdentityError, match=code):
            open_signed(seal_signed(stranger, "member", BODY, NOW), "member", verifier, NOW)


def test_log_outlives_its_signers_certificates(ca: CertificateAuthority, verifier: Verifier) -> None:
    operator = svid(ca, "ann", lifetime_s=60)
    revision = seal_signed(operator, "policy.revision", BODY, NOW + 30)
    year_later = NOW + 365 * 86400
    with pytest.raises(IdentityError, match="BM4006"):
        open_signed(revision, "policy.revision", verifier, year_later)
    opened = open_signed(revision, "policy.revision", verifier, year_later, at="signing")
    assert opened.time_ms == int((NOW + 30) * 1000)
    too_late = seal_signed(operator, "policy.revision", BODY, NOW + 90)
    with pytest.raises(IdentityError, match="BM4006"):
        open_signed(too_late, "policy.revision", verifier, year_later, at="signing")


@pytest.mark.parametrize(
    ("age", "max_age", "accepted"),
    [(-20, None, True), (-21, None, False), (3000, None, True), (80, 60, True), (81, 60, False)],
)
def test_time_of_signing(
    orders: Svid, verifier: Verifier, age: float, max_age: float | None, accepted: bool
) -> None:
    envelope = seal_signed(orders, "member", BODY, NOW - age)
    if accepted:
        assert open_signed(envelope, "member", verifier, NOW, max_age=max_age).body == BODY
    else:
        with pytest.raises(IdentityError, match="BM4104"):
            open_signed(envelope, "member", verifier, NOW, max_age=max_age)


def test_unknown_version_is_told_as_such(orders: Svid, verifier: Verifier) -> None:
    envelope = altered(seal_signed(orders, "member", BODY, NOW), 0, 2)
    with pytest.raises(RemoteProtocolError, match=r"version 2.*version 1") as refused:
        open_signed(envelope, "member", verifier, NOW)
    assert (refused.value.code, refused.value.hint) == ("BM4102", "upgrade the older side")


NESTED: bytes = b"\x95\x01" + b"\x95" * 60_000
BOMBS = {
    "empty": b"",
    "not an array": b"\x81\x01\x02",
    "no version": msgpack.packb([]),
    "version as text": msgpack.packb(["1", b"", 1, b"", b""]),
    "too few fields": msgpack.packb([1, b"", 1, b""]),
    "too many fields": msgpack.packb([1, b"", 1, b"", b"", b""]),
    "certificate as text": msgpack.packb([1, "x", 1, b"", b""]),
    "certificate of 5 KiB": msgpack.packb([1, bytes(5000), 1, b"", b""]),
    "time as float": msgpack.packb([1, b"", 1.0, b"", b""]),
    "time negative": msgpack.packb([1, b"", -1, b"", b""]),
    "time true": msgpack.packb([1, b"", True, b"", b""]),
    "body as array": msgpack.packb([1, b"", 1, [1], b""]),
    "body as map": msgpack.packb([1, b"", 1, {}, b""]),
    "extension type": msgpack.packb([1, msgpack.ExtType(5, b"x"), 1, b"", b""]),
    "signature of 81 bytes": msgpack.packb([1, b"", 1, b"", bytes(81)]),
    "bytes after": msgpack.packb([1, b"", 1, b"", b""]) + b"\0",
    "cut off": msgpack.packb([1, b"", 1, b"", b"abc"])[:-1],
    "array of four thousand million": b"\xdd\xff\xff\xff\xff\x01",
    "binary of four thousand million": b"\x95\x01\xc6\xff\xff\xff\xff",
    "nested arrays": NESTED,
    "many tiny arrays": b"\x95\x01" + b"\x90" * 60_000,
    "larger than the cap": msgpack.packb([1, b"", 1, bytes(70_000), b""]),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_refused_before_it_is_decoded(verifier: Verifier, bomb: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        open_signed(BOMBS[bomb], "member", verifier, NOW)
    assert refused.value.code == ("BM4101" if "cap" in bomb else "BM4103")


def test_cap_may_be_raised(orders: Svid, verifier: Verifier) -> None:
    envelope = seal_signed(orders, "policy.revision", bytes(200_000), NOW)
    with pytest.raises(RemoteProtocolError, match="BM4101"):
        open_signed(envelope, "policy.revision", verifier, NOW)
    opened = open_signed(envelope, "policy.revision", verifier, NOW, max_size=1 << 20)
    assert len(opened.body) == 200_000


_FUZZ_CA = CertificateAuthority.create(MESH, NOW)
_FUZZ_VERIFIER = Verifier(_FUZZ_CA.bundle)
_FUZZ = seal_signed(svid(_FUZZ_CA, "orders"), "member", BODY, NOW)


@given(
    st.binary(max_size=200)
    | st.lists(st.integers() | st.binary() | st.text() | st.none(), max_size=6).map(
        lambda fields: bytes(
            msgpack.packb([1, *[f for f in fields if not isinstance(f, int) or 0 <= f < 2**64]])
        )
    )
    | st.tuples(st.integers(0, len(_FUZZ)), st.binary(min_size=1, max_size=4)).map(
        lambda cut: _FUZZ[: cut[0]] + cut[1] + _FUZZ[cut[0] :]
    )
)
def test_arbitrary_bytes_raise_typed_errors_only(data: bytes) -> None:
    with pytest.raises(BusmeshError):
        open_signed(data, "member", _FUZZ_VERIFIER, NOW)


@given(st.lists(st.integers(0, 2**64 - 1) | st.binary(max_size=300), max_size=8))
def test_fields_are_read_as_they_were_packed(fields: list[int | bytes]) -> None:
    reader = FieldReader(pack(*fields), len(fields), max_size=4096, what="record")
    for expected in fields:
        assert (reader.integer() if isinstance(expected, int) else reader.binary()) == expected
    reader.end()


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_what_is_bound_is_told_apart(one: list[bytes], other: list[bytes]) -> None:
    """No byte moves from one part into the next without changing what is signed."""
    assert (bind(b"x", *one) == bind(b"x", *other)) == (one == other)
    assert bind(b"x", *one) != bind(b"y", *one)


def test_record_of_exactly_the_cap_is_read() -> None:
    record = pack(bytes(1000), 5)
    reader = FieldReader(record, 2, max_size=len(record), what="record")
    assert (reader.binary(), reader.integer()) == (bytes(1000), 5)
    reader.end()
    with pytest.raises(RemoteProtocolError, match="BM4101"):
        FieldReader(record, 2, max_size=len(record) - 1, what="record")

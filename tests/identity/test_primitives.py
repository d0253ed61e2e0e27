"""Published vectors for the primitives in use, and the formulas that put them together."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from busmesh.bus.nkeys import KeyPair, Role
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.handshake import EXPORTER_LABEL, Handshake, SessionKeys, TlsContext
from busmesh.identity.jointoken import REPLY, REQUEST, JoinToken
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId
from busmesh.wire.frame import Session
from tests.identity.forge import NOW


@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [
        # RFC 4231 sections 4.2 to 4.8; of test case 5 it gives the first 16 bytes
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            bytes(range(1, 26)),
            b"\xcd" * 50,
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
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
    assert hmac.digest(key, data, "sha256").hex()[: len(expected)] == expected


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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # FIPS 180's examples
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
)
def test_sha256_of_fips_180(data: bytes, expected: str) -> None:
    assert hashlib.sha256(data).hexdigest() == expected


@pytest.mark.parametrize(
    ("key", "iv", "ciphertext", "aad", "tag", "plaintext"),
    [
        # NIST gcmDecrypt256.rsp, [IVlen = 96, PTlen = 128, AADlen = 128, Taglen = 128], counts 0, 1 and 2
        (
            "54e352ea1d84bfe64a1011096111fbe7668ad2203d902a01458c3bbd85bfce14",
            "df7c3bca00396d0c018495d9",
            "426e0efc693b7be1f3018db7ddbb7e4d",
            "7e968d71b50c1f11fd001f3fef49d045",
            "ee8257795be6a1164d7e1d2d6cac77a7",
            "85fc3dfad9b5a8d3258e4fc44571bd3b",
        ),
        (
            "82f0d1ddc58123f805541f55a7eab43f56ddfefc06c73d57709df3d5a4aabfb3",
            "0c9d74af29ed4406c77a8e4b",
            "c61155d41495e9fc76060fe7f8c926a2",
            "34325620a392739beeee6c370967d539",
            "66d8c881d66370504d2bf00cdb06259e",
            "3fe7811a8224a1881da34a27e03da86a",
        ),
        (
            "9a0343f850a6427120f764789ffec6d237447b898fbf51d2182f065d3861497d",
            "3deef6f453dd70d92143adcd",
            "e93165935ac18e3a2845d15fe31a9286",
            "dbb8226a624520863db6897017b2a4f8",
            "f5fc50d18766bc3d9e16dd136d45816b",
            None,
        ),
    ],
)
def test_aes_256_gcm_of_nist(
    key: str, iv: str, ciphertext: str, aad: str, tag: str, plaintext: str | None
) -> None:
    """A session's own cipher objects; its frames fix what is authenticated, so the vectors go in beneath."""
    keys = bytes.fromhex(key), bytes.fromhex(iv)
    session = Session(1, SpiffeId.parse("spiffe://local/operator/a"), send=keys, receive=keys, started=0.0)
    nonce, extra = bytes.fromhex(iv), bytes.fromhex(aad)
    sealed = bytes.fromhex(ciphertext + tag)
    if plaintext is None:
        with pytest.raises(InvalidTag):
            session._open(nonce, sealed, extra)
        return
    assert session._open(nonce, sealed, extra).hex() == plaintext
    assert session._seal(nonce, bytes.fromhex(plaintext), extra) == sealed


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        # RFC 8032 section 7.1, tests 1 and 2
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_ed25519_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = KeyPair(Role.USER, bytes.fromhex(seed))
    assert key.raw_public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_x25519_of_rfc_7748() -> None:
    """Section 5.2, its first vector: scalar, u-coordinate, product."""
    scalar = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    )
    point = X25519PublicKey.from_public_bytes(
        bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    )
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert scalar.exchange(point).hex() == product


def test_ecdsa_p256_of_rfc_6979() -> None:
    """Appendix A.2.5, SHA-256, message "sample"; and what is signed is not "test"."""
    key = ec.EllipticCurvePublicNumbers(
        0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6,
        0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299,
        ec.SECP256R1(),
    ).public_key()
    signature = encode_dss_signature(
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    )
    key.verify(signature, b"sample", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"test", ec.ECDSA(hashes.SHA256()))


def _expand_label(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """RFC 8446 section 7.1."""
    name = b"tls13 " + label
    info = length.to_bytes(2) + bytes((len(name),)) + name + bytes((len(context),)) + context
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)


def test_session_keys_are_the_exporter_of_rfc_8446(ca: CertificateAuthority, web: Svid, orders: Svid) -> None:
    """Computed anew (section 7.5) from the exporter secret that OpenSSL logs; no RFC prints a vector."""
    lines: list[bytes] = []
    caller, answerer = TlsContext(web, Verifier(ca.bundle)), TlsContext(orders, Verifier(ca.bundle))
    caller._context.set_keylog_callback(lambda _, line: lines.append(line))
    client, server = Handshake.client(caller, orders.id), Handshake.server(answerer)
    flight = client.feed(server.feed(client.feed(b"", NOW), NOW), NOW)
    server.feed(flight, NOW)
    (secret,) = (
        bytes.fromhex(line.split()[2].decode()) for line in lines if line.startswith(b"EXPORTER_SECRET")
    )
    derived = _expand_label(secret, EXPORTER_LABEL, hashlib.sha384(b"").digest(), 48)
    material = _expand_label(derived, b"exporter", hashlib.sha384(b"").digest(), 88)
    assert client.keys == server.keys == SessionKeys.split(material)
    assert client.keys.client_key + client.keys.client_iv == material[:44]
    assert client.keys.server_key + client.keys.server_iv == material[44:]


#: Count 0 of kat_MLKEM_768.rsp, as cryptography_vectors 50.0.2 ships it.
_MLKEM_CIPHERTEXT = bytes.fromhex(
    "16a61ff84787fd4a5f19ca59b3657db3a106a7329e2d62747a2ef85149163109befff6bcb33df66230b8f6725ce719f58f71"
    "196e895befc9754d9f042494648c88a6ed4c4cf13f2faf9f651de79dae077733cb235f9dce448977fd42d5486b7dfdf6d7bd"
    "9172b14247655d34f10524d469478d9a9639f34d2acde6e3c048d52b308b66245fe9a28cde7983b9d14c03b37715fe3970cd"
    "35734771add7aa9b58cfb0adf8c613deafb2b31f6e5c8364d4334e93af8e4943fa947cc67667447cffd036235afaea7f603c"
    "b2ea277b97dadf82ea746f6b27396dd08c85cff9304a2e5ce0571fde2e926716bc9f8e4d474b4e8fd34b0dc28376204ea306"
    "d30e9a6dd88250b79823e77319f2ef3a77704f409dde8beb6db1be4a9f25ae2e15939dedf1b11a5aa51fcff04068b46d42fb"
    "bafd2498264cca4fb78b0f2ab162c7ef569875a13148b9a4b0b9da1787ca0a7033e3eca13471dbcbbe15e34f2b5065b995fe"
    "221c2b7ac150334d14e68edc5e049663de362fae8d35e24c202c5fad2153cd044ea962a388f030cdc5dec1c3423183b173c3"
    "2b22f5800ae45e8e89c8ee4617ce24e60f278bfd1ea0f8fa92486b6f849127da99be7be4c661e2ba26669d6acf619a330568"
    "09683e24a2f29e33be7f5f9ac668697e59488e9b8685956cd87b7c47109d603202c201472ec829ea64922e4d0eadd4a4b5a8"
    "fb06e0f4bf25a59ced54557388dcd91b387cb6148597edf84a22595801851ca4b9e9e096fdfc96f2444ac9f1247a5e640787"
    "fca23e3eb21ec1059c42a65803441df01279013c448dfc3eedfc3355eee1f510086a115f854c36db797a85ede19a473a33e7"
    "9a80f6f7f6467e1b0d866fe0e57a8abd379934a6a6a492f5f32594d43de2ec2eea81487981bb6394bfa6df5498d74c6db220"
    "2a6348a325fbc906b8e820bb00659a2ee12740b14b2e36f4c5dab411c0cd096c5e63ba4d48aa9e92b31f44dc97c0fef661bc"
    "f4db895f174613d9d5ed9e836657745ec9deec7af273cec87ef0eaf805da1bc8401608810b8a86f952c6326d09fc8d1d7fd8"
    "3b4e862e05058e877c056cc5465ec3192b03a4c33cc6b16558d2482d5f84518cbbc526aae6e8840317efb3a1982c3d1719ef"
    "15d10f8b077c5c68680be6d3d92e86aaa6eb378cf0559d493257147b55730f49a042325af066b4f9741b9fff5d47972d5aca"
    "f52b6bea4e9e354ef9448b62f6d2a1317675a922e14e31578d6cab5a09a71ab270d865151b8ab4c612b5fd5dcc97e45419a1"
    "cfb6b8b9aec60f62602098f91f07c238186657941c7a18e4d7ee220f022d5fffd291853b9c063e561b7176f7a235ce45bc86"
    "ce4718086df9536c5a5f0abf04c0a84d82bdf69552ade3135433c10a1ba69d688969e6d9dce54d3b3aae3a7f2ab904e657e3"
    "fb05241fac110aa07e62cc3991d7d0d6329b5ab9d69d7336c0d148588c9f0921325b85df5fd30db80a56a372437215364196"
    "1aa7e042bf2646ff46022c059d5794c3a4b7f90c410de71a5231dd9b83bbd0e6bdab1bf9e62f"
)


def test_mlkem_768_known_answer() -> None:
    seed = bytes.fromhex(
        "6dbbc4375136df3b07f7c70e639e223e177e7fd53b161b3f4d57791794f12624"
        "f696484048ec21f96cf50a56d0759c448f3779752f0383d37449690694cf7a68"
    )
    key = MLKEM768PrivateKey.from_seed_bytes(seed)
    public = hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()
    assert public == "4bec4730f26273c6319ef7387dd4758315240a9394cd89264b148b9113060b61"
    assert (
        key.decapsulate(_MLKEM_CIPHERTEXT).hex()
        == "b408d5d115713f0a93047dbbea832e4340787686d59a9a2d106bd662ba0aa035"
    )

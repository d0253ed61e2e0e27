"""Files: who may read them, what a crash leaves behind, and what a corrupt one says."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busmesh.errors import BusmeshError, IdentityError, InvalidName, NotFound, UsageError
from busmesh.identity import files
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.jointoken import Grant, JoinToken
from busmesh.identity.store import Context, Home, read_join_token, save_join_token
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle
from busmesh.names import SpiffeId
from tests.identity.forge import MESH, NOW, svid

TOKEN = JoinToken.generate(MESH)


@pytest.fixture
def umask_zero() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.fixture
def ann(ca: CertificateAuthority) -> Svid:
    return ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)


def filled(home: Home, ca: CertificateAuthority, ann: Svid, orders: Svid) -> Home:
    home.save_authority(ca)
    home.save_operator(ann)
    home.save_join_token(TOKEN)
    home.save_grant(Grant(TOKEN, "shop-*", "default", NOW))
    home.save_context(Context("nats://127.0.0.1:4222", MESH))
    home.save_trust(ca.bundle)
    home.agent("orders-0").save_svid(orders)
    home.agent("orders-0").save_trust(ca.bundle)
    return home


@pytest.fixture
def home(tmp_path: Path, ca: CertificateAuthority, ann: Svid, orders: Svid) -> Home:
    return filled(Home(tmp_path / "deep" / "home"), ca, ann, orders)


READS: dict[str, Callable[[Home], object]] = {
    "ca/root.key": lambda home: home.authority(MESH),
    "operator/ann.key": lambda home: home.operator("ann"),
    "join-token": lambda home: home.join_token(),
    f"ca/grants/{TOKEN.id}.json": lambda home: home.grants(),
    "context.json": lambda home: home.context(),
    "trust.crt": lambda home: home.trust(MESH),
    "agents/orders-0/svid.key": lambda home: home.agent("orders-0").svid(),
    "agents/orders-0/trust.crt": lambda home: home.agent("orders-0").trust(MESH),
}
SECRET = [name for name in READS if name.endswith(".key") or "grants" in name or name == "join-token"]


def _named(name: str) -> str:
    """Name a case; that of a grant's file is drawn anew in each process."""
    return name.partition("grants/")[0]


def test_what_was_saved_is_read_back(home: Home, ca: CertificateAuthority, ann: Svid, orders: Svid) -> None:
    again = Home(home.path)
    authority = again.authority(MESH)
    assert authority.certificate == ca.certificate
    assert authority.issue_svid(orders.id, NOW).id == orders.id
    operator = again.operator("ann")
    assert (operator.id, operator.der, operator.fingerprint) == (ann.id, ann.der, ann.fingerprint)
    assert again.operators() == ["ann"]
    assert again.join_token() == TOKEN
    assert again.grants() == {TOKEN.id: Grant(TOKEN, "shop-*", "default", NOW)}
    assert again.context() == Context("nats://127.0.0.1:4222", MESH)
    assert again.trust(MESH) == ca.bundle
    assert again.agent("orders-0").svid().id == orders.id
    assert again.agent("orders-0").trust(MESH) == ca.bundle
    assert again.agent("orders-0").policies == home.path / "agents" / "orders-0" / "policies"
    again.delete_grant(TOKEN.id)
    again.delete_grant(TOKEN.id)
    assert again.grants() == {}


def test_home_is_where_the_environment_says(tmp_path: Path) -> None:
    assert Home.default({"BUSMESH_HOME": str(tmp_path)}).path == tmp_path
    assert Home.default({"BUSMESH_HOME": ""}).path == Path.home() / ".busmesh"
    assert Home.default({}).path == Path.home() / ".busmesh"


@pytest.mark.usefixtures("umask_zero")
def test_modes_do_not_depend_on_the_umask(
    tmp_path: Path, ca: CertificateAuthority, ann: Svid, orders: Svid
) -> None:
    home = filled(Home(tmp_path / "deep" / "home"), ca, ann, orders)
    home.agent("orders-0").policies  # noqa: B018 - it makes the folder
    entries = [tmp_path / "deep", home.path, *home.path.rglob("*")]
    modes = {entry: stat.S_IMODE(entry.stat().st_mode) for entry in entries}
    assert {
        entry: mode for entry, mode in modes.items() if mode != (0o700 if entry.is_dir() else 0o600)
    } == {}
    assert len(modes) == 19


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    for name, read in READS.items():
        if "grants" not in name:
            with pytest.raises(NotFound, match="BM4501") as missing:
                read(Home(tmp_path / "none"))
            assert name in str(missing.value)
    assert Home(tmp_path / "none").grants() == {}
    assert Home(tmp_path / "none").operators() == []


@pytest.mark.parametrize("name", SECRET, ids=_named)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_secret_that_others_can_read_is_refused(home: Home, name: str, mode: int) -> None:
    path = home.path / name
    path.chmod(mode)
    with pytest.raises(IdentityError, match="BM4502") as exposed:
        READS[name](home)
    assert exposed.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    READS[name](home)


@pytest.mark.parametrize("name", sorted(READS.keys() - set(SECRET)))
def test_what_is_no_secret_may_be_read_by_others_but_not_written(home: Home, name: str) -> None:
    (home.path / name).chmod(0o644)
    READS[name](home)
    (home.path / name).chmod(0o664)
    with pytest.raises(IdentityError, match="BM4502"):
        READS[name](home)


@pytest.mark.parametrize("name", [name for name in SECRET if name.endswith(".key")])
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_key_in_an_open_folder_is_refused(home: Home, name: str, mode: int) -> None:
    folder = (home.path / name).parent
    folder.chmod(mode)
    with pytest.raises(IdentityError, match="BM4502") as exposed:
        READS[name](home)
    assert exposed.value.hint == f"chmod 700 {folder}"
    folder.chmod(0o700)
    READS[name](home)


def test_open_folder_is_refused(home: Home, ann: Svid) -> None:
    folder = home.path / "operator"
    folder.chmod(0o755)
    with pytest.raises(IdentityError, match="BM4502") as exposed:
        home.save_operator(ann)
    assert exposed.value.hint == f"chmod 700 {folder}"
    assert sorted(entry.name for entry in folder.iterdir()) == ["ann.crt", "ann.key"]


CORRUPT = {
    "empty": b"",
    "junk": b"\xff\x00junk",
    "large": b"#" * (files.MAX_FILE + 1),
    "nested": b"[" * 100_000,
    "json of another shape": b'{"bus": 1, "token": [], "mesh": "*"}',
    "json list": b"[]",
}


@pytest.mark.parametrize("name", READS, ids=_named)
@pytest.mark.parametrize("content", CORRUPT)
def test_corrupt_file_is_named(home: Home, name: str, content: str) -> None:
    (home.path / name).write_bytes(CORRUPT[content])
    with pytest.raises(IdentityError, match="BM4503") as corrupt:
        READS[name](home)
    assert str(home.path / name) in str(corrupt.value)


def test_pieces_that_do_not_belong_together_are_named(
    home: Home, ca: CertificateAuthority, other_ca: CertificateAuthority
) -> None:
    def key_of(name: str) -> bytes:
        return (home.path / name).read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]

    def certificate_of(name: str) -> bytes:
        return (home.path / name).read_bytes().removeprefix(key_of(name))

    mixed = {
        "operator/ann.key": key_of("agents/orders-0/svid.key") + certificate_of("operator/ann.key"),
        "agents/orders-0/svid.key": key_of("agents/orders-0/svid.key"),
        "ca/root.key": key_of("operator/ann.key") + certificate_of("ca/root.key"),
        "trust.crt": certificate_of("operator/ann.key"),
        "context.json": b'{"bus": "nats://x", "mesh": "a.b"}',
        f"ca/grants/{TOKEN.id}.json": b'{"token": "busmesh-join", "service": "*", "namespace": "*"}',
        "join-token": TOKEN.reveal()[:-2].encode(),
    }
    for name, content in mixed.items():
        (home.path / name).write_bytes(content)
        with pytest.raises(IdentityError, match="BM4503") as corrupt:
            READS[name](home)
        assert str(home.path / name) in str(corrupt.value)
        assert TOKEN.reveal()[-40:-2] not in str(corrupt.value)
    with pytest.raises(IdentityError, match="BM4503"):
        Home(home.path).agent("orders-0").trust("other")


def test_encrypted_key_is_refused_clearly(home: Home, orders: Svid) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = orders.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    path = home.path / "agents" / "orders-0" / "svid.key"
    path.write_bytes(pem)
    with pytest.raises(IdentityError, match="BM4503"):
        home.agent("orders-0").svid()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_while_writing_leaves_the_old_file(
    home: Home, ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise OSError("no space left on device")

    agent = home.agent("orders-0")
    before = agent.svid().fingerprint
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", crash)
    else:
        monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        agent.save_svid(svid(ca, "orders"))
    monkeypatch.undo()
    assert agent.svid().fingerprint == before
    assert sorted(entry.name for entry in agent.path.iterdir()) == ["svid.crt", "svid.key", "trust.crt"]


def test_key_and_certificate_are_replaced_in_one_step(
    home: Home, ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the files of a pair must not leave a key with somebody else's certificate."""
    agent, renewed = home.agent("orders-0"), svid(ca, "orders")
    replaced: list[str] = []
    replace = Path.replace

    def crash_after_the_first(path: Path, target: Path) -> Path:
        if replaced:
            raise OSError("power cut")
        replaced.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash_after_the_first)
    with pytest.raises(OSError, match="power cut"):
        agent.save_svid(renewed)
    monkeypatch.undo()
    assert agent.svid().fingerprint == renewed.fingerprint


def test_certificate_beside_the_key_is_for_everybody(home: Home, ann: Svid) -> None:
    text = (home.path / "operator" / "ann.crt").read_text()
    assert text.count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE" not in text


@pytest.mark.parametrize("name", ["join-token", "trust.crt"])
def test_what_is_not_a_file_is_refused_without_waiting(home: Home, name: str) -> None:
    path = home.path / name
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(IdentityError, match="BM4503"):
        READS[name](home)
    path.unlink()
    path.mkdir()
    with pytest.raises(IdentityError, match="BM4503"):
        READS[name](home)


def test_folder_that_is_a_file_is_refused(tmp_path: Path, ca: CertificateAuthority) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(IdentityError, match="BM4503"):
            Home(path).save_trust(ca.bundle)
        with pytest.raises(NotFound):
            Home(path).trust(MESH)


@pytest.mark.parametrize("name", ["../x", "a/b", "*", "", "."])
def test_names_do_not_leave_their_folder(home: Home, name: str) -> None:
    for use in (home.agent, home.operator, home.delete_grant):
        with pytest.raises(InvalidName):
            use(name)


def test_one_agent_of_a_name_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busmesh.identity.store.LOCK_PATIENCE_S", 0.0)
    with home.agent("orders-0").claimed(), home.agent("orders-1").claimed():
        with (
            pytest.raises(UsageError, match="orders-0 runs already") as refused,
            home.agent("orders-0").claimed(),
        ):
            pass
        assert "--instance" in refused.value.hint
    with home.agent("orders-0").claimed():
        pass


def test_a_join_token_that_is_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="BM4501") as absent:
        read_join_token(tmp_path / "token")
    assert "--join FILE" in absent.value.hint
    files.write(tmp_path / "token", b"hello", anywhere=True)
    with pytest.raises(IdentityError, match="BM4503") as wrong:
        read_join_token(tmp_path / "token")
    assert str(tmp_path / "token") in wrong.value.message
    assert "copy the whole line" in wrong.value.hint


def test_token_file_may_stand_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    save_join_token(folder / "token", TOKEN)
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert read_join_token(folder / "token") == TOKEN
    assert [entry.name for entry in folder.iterdir()] == ["token"]


def test_several_roots(home: Home, ca: CertificateAuthority, other_ca: CertificateAuthority) -> None:
    both = TrustBundle(MESH, (ca.certificate, other_ca.certificate))
    home.save_trust(both)
    assert home.trust(MESH) == both


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary(max_size=100), name=st.sampled_from(sorted(READS)))
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_arbitrary_content_raises_typed_errors_only(home: Home, content: bytes, name: str) -> None:
    path = home.path / name
    original = path.read_bytes()
    for text in (content, original[: len(content)] + content + original[len(content) * 2 :]):
        path.write_bytes(text)
        try:
            READS[name](home)
        except BusmeshError as error:
            assert str(path) in str(error)  # noqa: PT017 - some of these are harmless
    path.write_bytes(original)

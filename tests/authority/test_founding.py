"""What a home holds after the founding of a mesh, and what a second founding leaves alone."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from busmesh.authority import founding
from busmesh.authority.founding import check, found, operator_name, revocations_of
from busmesh.errors import IdentityError, InvalidName, NotFound, UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revocation import Revocation
from busmesh.identity.store import Context, Home
from busmesh.identity.trust import RetiredRoot, TrustBundle
from busmesh.identity.trustlog import seal_revocation
from busmesh.identity.verify import verify_certificate
from busmesh.trust.store import TrustStore

DAY = 86400.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "deep" / "home")


def contents(home: Home) -> dict[str, bytes]:
    return {str(p.relative_to(home.path)): p.read_bytes() for p in home.path.rglob("*") if p.is_file()}


def test_a_new_home_holds_all_that_a_mesh_needs(home: Home) -> None:
    now = time.time()
    found(home, "local", "ada", now)
    bundle = home.trust("local")
    assert bundle.roots == (home.authority("local").certificate,)
    assert home.operators() == ["ada"]
    assert str(verify_certificate(home.operator("ada").der, bundle, now).id) == "spiffe://local/operator/ada"
    token = home.join_token()
    assert token.mesh == "local"
    assert home.grants()[token.id].token == token


def test_nothing_in_it_is_for_others_whatever_the_umask(home: Home) -> None:
    before = os.umask(0)
    try:
        found(home, "local", "ada", time.time())
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [home.path, *home.path.rglob("*")]}
    assert len(modes) > 8
    assert {p: oct(m) for p, m in modes.items() if m != (0o700 if p.is_dir() else 0o600)} == {}


def test_a_second_founding_changes_nothing(home: Home) -> None:
    found(home, "local", "ada", time.time())
    before = contents(home)
    found(home, "local", "somebody-else", time.time())
    assert contents(home) == before


def test_an_operator_past_half_of_the_certificates_life_gets_a_new_one(home: Home) -> None:
    now = time.time()
    found(home, "local", "ada", now)
    first = home.operator("ada").fingerprint
    found(home, "local", "ada", now + 40 * DAY)
    assert home.operator("ada").fingerprint == first
    found(home, "local", "ada", now + 50 * DAY)
    assert home.operator("ada").fingerprint != first
    assert home.operator("ada").not_after > now + 100 * DAY


def test_a_revoked_join_token_is_replaced_not_revived(home: Home) -> None:
    found(home, "local", "ada", time.time())
    leaked = home.join_token()
    home.delete_grant(leaked.id)
    found(home, "local", "ada", time.time())
    assert home.join_token() != leaked
    assert list(home.grants()) == [home.join_token().id]


def test_the_founding_goes_on_where_a_crash_ended_it(home: Home) -> None:
    home.save_authority(CertificateAuthority.create("local", time.time()))
    root = home.authority("local").certificate
    found(home, "local", "ada", time.time())
    assert home.trust("local").roots == (root,)


def test_a_bundle_that_lacks_the_root_gets_it(home: Home) -> None:
    found(home, "local", "ada", time.time())
    other = CertificateAuthority.create("local", time.time())
    home.save_trust(other.bundle)
    found(home, "local", "ada", time.time())
    own = home.authority("local").certificate
    assert home.trust("local") == TrustBundle("local", (own, other.certificate), version=2)


def test_a_root_that_the_mesh_has_removed_is_not_brought_back(home: Home) -> None:
    """A second authority that was off while the root was rotated elsewhere."""
    found(home, "local", "ada", time.time())
    old, new = home.authority("local"), CertificateAuthority.create("local", time.time())
    rotated = TrustBundle("local", (new.certificate,), 4, (RetiredRoot(old.certificate, 0, "0" * 64),))
    home.save_trust(rotated)
    with pytest.raises(UsageError, match="BM4603"):
        found(home, "local", "ada", time.time())
    assert home.trust("local") == rotated
    home.save_authority(new)
    found(home, "local", "ada", time.time())
    assert home.trust("local") == rotated


def test_the_home_of_a_member_does_not_become_a_second_authority(home: Home) -> None:
    home.save_trust(CertificateAuthority.create("local", time.time()).bundle)
    before = contents(home)
    with pytest.raises(UsageError) as caught:
        found(home, "local", "ada", time.time())
    assert caught.value.code == "BM4602"
    assert contents(home) == before


def test_the_home_of_another_mesh_is_left_alone(home: Home) -> None:
    found(home, "local", "ada", time.time())
    home.save_context(Context("nats://127.0.0.1:4222", "local"))
    before = contents(home)
    for attempt in (lambda: found(home, "other", "ada", time.time()), lambda: check(home, "other")):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert caught.value.code == "BM4601"
    assert contents(home) == before


def test_a_home_that_others_can_look_into_is_refused(home: Home) -> None:
    home.path.mkdir(parents=True)
    home.path.chmod(0o755)
    with pytest.raises(IdentityError) as caught:
        found(home, "local", "ada", time.time())
    assert caught.value.code == "BM4502"
    assert contents(home) == {}


@pytest.mark.parametrize(
    ("mesh", "operator"), [("*", "ada"), ("a.b", "ada"), ("local", "../ada"), ("local", "")]
)
def test_a_name_that_is_none_makes_nothing(home: Home, mesh: str, operator: str) -> None:
    with pytest.raises(InvalidName):
        found(home, mesh, operator, time.time())
    assert not home.path.exists()


def test_check_makes_nothing(home: Home) -> None:
    with pytest.raises(NotFound):
        check(home, "local")
    assert not home.path.exists()
    found(home, "local", "ada", time.time())
    check(home, "local")


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "ada-lovelace"),
        ("DOM\\x_y", "dom-x-y"),
        ("_", "admin"),
        ("ü" * 9, "admin"),
        ("a" * 62 + "__b", "a" * 62),
    ],
)
def test_the_operator_is_called_after_the_user(monkeypatch: pytest.MonkeyPatch, user: str, name: str) -> None:
    monkeypatch.setattr(founding.getpass, "getuser", lambda: user)
    assert operator_name() == name


def test_a_user_without_a_name_is_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(founding.getpass, "getuser", nobody)
    assert operator_name() == "admin"


def test_an_operator_who_was_revoked_is_not_renewed(home: Home) -> None:
    """What is issued later counts, so a renewal would bring back who was shut out."""
    began = time.time()
    found(home, "local", "ada", began)
    before = home.operator("ada").certificate
    revocation = Revocation(
        "spiffe://local/operator/ada", 0, int(began * 1000), int((began + 90 * DAY) * 1000)
    )
    TrustStore(home.trust_log).append(seal_revocation(home.authority("local"), revocation, began))
    found(home, "local", "ada", began + 60 * DAY)
    assert home.operator("ada").certificate == before
    assert [*revocations_of(home, "local", began)] == [revocation]

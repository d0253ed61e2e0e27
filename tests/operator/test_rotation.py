"""A rotation of the root, step by step in one home, and what a crash between any two writes leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from busmesh.authority.founding import found
from busmesh.errors import UsageError
from busmesh.identity import files
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle
from busmesh.identity.trustlog import Taken, TrustState, seal_bundle
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.rotation import Position, Rotation, Step, identifier, position
from tests.operator.fakes import MESH

DIGEST = "a" * 64
#: Files that a rotation writes in a home with one operator.
WRITES = 11


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "authority")
    found(home, MESH, "ann", time.time())
    return home


@pytest.fixture(scope="module")
def roots() -> tuple[CertificateAuthority, CertificateAuthority]:
    first, second = (CertificateAuthority.create(MESH, time.time()) for _ in range(2))
    return first, second


def test_position(roots: tuple[CertificateAuthority, CertificateAuthority]) -> None:
    old, new = roots
    alone, both = old.bundle, TrustBundle(MESH, (old.certificate, new.certificate), 2)
    only_new = TrustBundle(MESH, (new.certificate,), 4)
    one, two = identifier(old), identifier(new)
    for bundle, root, following, retiring, step, under_way in (
        (alone, one, None, None, Step.ADD, False),
        (alone, one, two, None, Step.ADD, True),  # the next key is made, nobody trusts it yet
        (both, one, two, None, Step.SWITCH, True),
        (both, two, two, one, Step.REMOVE, True),  # a crash before the next key's file went
        (both, two, None, one, Step.REMOVE, True),
        (only_new, two, None, one, None, True),
        (only_new, two, None, None, Step.ADD, False),
    ):
        assert position(bundle, root, following, retiring) == Position(step, under_way)


def test_three_steps(home: Home) -> None:
    rotation = Rotation(home, MESH)
    old = rotation.root
    state = TrustState(Verifier(rotation.bundle))
    operator = home.operator("ann")
    for number, step in enumerate(Step):
        assert rotation.home_position().step is step
        bundle = rotation.take(step, through=5, digest=DIGEST)
        assert bundle.version == number + 2
        assert state.take(seal_bundle(rotation.root, bundle, time.time()), time.time()) is Taken.BUNDLE
        state.verifier.certificate(home.operator("ann").der, time.time())
    assert home.operator("ann").fingerprint != operator.fingerprint
    assert rotation.home_position() == Position(None, under_way=True)
    assert old.certificate not in rotation.bundle.roots
    (retired,) = rotation.bundle.retired
    assert (retired.certificate, retired.through, retired.digest) == (old.certificate, 5, DIGEST)
    rotation.tidy()
    assert rotation.home_position() == Position(Step.ADD, under_way=False)
    assert sorted(path.name for path in (home.path / "ca").iterdir()) == ["grants", "root.crt", "root.key"]


class Crash(Exception):
    """The machine lost its power here."""


@pytest.mark.parametrize("survived", range(WRITES + 1))
def test_a_crash_before_any_write_is_gone_on_from(
    home: Home, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Whatever was on disk when it ended, the same command finishes, and every bundle followed the last."""
    rotation = Rotation(home, MESH)
    old = identifier(rotation.root)
    state = TrustState(Verifier(rotation.bundle))
    left, write = survived, files.write

    def fragile(path: Path, data: bytes, **options: bool) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        write(path, data, **options)

    def go_on() -> None:
        again = Rotation(home, MESH)
        if again.bundle.version > state.verifier.bundle.version:  # done, and not published
            state.take(seal_bundle(again.root, again.bundle, time.time()), time.time())
        while (step := again.home_position().step) is not None:
            bundle = again.take(step, through=1, digest=DIGEST)
            state.take(seal_bundle(again.root, bundle, time.time()), time.time())
            assert state.verifier.bundle == bundle
        again.tidy()

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", fragile)
        try:
            go_on()
        except Crash:
            crashed = True
        else:
            crashed = False
    assert crashed is (survived < WRITES)
    if crashed:
        go_on()
    final = home.trust(MESH)
    assert state.verifier.bundle == final
    assert final.version == 4
    assert [identifier(home.authority(MESH))] == [final.issuer]
    assert final.root(old) is None
    assert len(final.retired) == 1
    assert sorted(path.name for path in (home.path / "ca").iterdir()) == ["grants", "root.crt", "root.key"]
    assert (home.path / "ca" / "root.key").read_bytes().endswith((home.path / "ca" / "root.crt").read_bytes())
    state.verifier.certificate(home.operator("ann").der, time.time())


def test_there_is_nothing_to_switch_to(home: Home) -> None:
    with pytest.raises(UsageError, match="BM4130"):
        Rotation(home, MESH).switch(time.time())


def _shown(svid: Svid, bundle: TrustBundle) -> Verified:
    return Verifier(bundle).certificate(svid.der, time.time())


def test_who_is_ready_for_a_step(home: Home) -> None:
    rotation = Rotation(home, MESH)
    orders = SpiffeId.workload(MESH, ServiceName("orders"), "orders-0")
    before = rotation.root.issue_svid(orders, time.time())
    rotation.add(time.time())
    rotation.switch(time.time())
    after = rotation.root.issue_svid(orders, time.time())

    def member(trust: int) -> Announcement:
        return Announcement(
            namespace="default",
            service="orders",
            instance="orders-0",
            incarnation=1,
            sequence=1,
            interval=1.0,
            state=State.HEALTHY,
            trust=trust,
        )

    bundle = rotation.bundle
    for step, trust, svid, ready in (
        (Step.SWITCH, 2, before, False),
        (Step.SWITCH, 3, before, True),
        (Step.REMOVE, 3, before, False),
        (Step.REMOVE, 3, after, True),
        (Step.REMOVE, 2, after, False),
        (None, 3, before, True),
    ):
        assert rotation.done_before(step, member(trust), _shown(svid, bundle)) is ready

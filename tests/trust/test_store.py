"""The trust log on disk: private, whole after a crash, and believed in nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from busmesh.errors import IdentityError
from busmesh.trust.store import TrustStore

ENTRIES = [b"one", b"two" * 1000, b"three"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trust"


def filled(folder: Path) -> TrustStore:
    store = TrustStore(folder)
    for entry in ENTRIES:
        store.append(entry)
    return store


def test_what_was_appended_is_read(folder: Path) -> None:
    assert TrustStore(folder).read() == []
    filled(folder)
    assert TrustStore(folder).read() == ENTRIES
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_a_crash_costs_the_last_entry(folder: Path, cut: int) -> None:
    filled(folder)
    log = folder / "log"
    log.write_bytes(log.read_bytes()[:-cut])
    assert TrustStore(folder).read() == ENTRIES[:2]


def test_junk_ends_it(folder: Path) -> None:
    filled(folder)
    with (folder / "log").open("ab") as file:
        file.write(b"\xc1junk")
    assert TrustStore(folder).read() == ENTRIES


def test_what_is_replaced_is_gone(folder: Path) -> None:
    store = filled(folder)
    store.replace([b"four"])
    store.append(b"five")
    assert store.read() == [b"four", b"five"]
    assert [path.name for path in folder.iterdir()] == ["log"]


def test_others_may_not_look_into_it(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(IdentityError, match="BM4502"):
        TrustStore(folder)

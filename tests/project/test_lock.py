"""``requirements.lock``: what is installed where it matters, by version and hash."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.support.processes import ROOT

#: Hashes of 256 bits: an archive is the one that was locked, or it is not installed.
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Return by name what is locked, with its hashes; each entry is one line with its continuations."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        head, *hashes = re.split(r"\s+(?=--)", line.strip())
        requirement = Requirement(head)
        assert requirement.name not in found
        found[requirement.name] = requirement, hashes
    return found


def test_t32_every_entry_is_one_version_with_hashes() -> None:
    entries = locked()
    assert len(entries) >= 20
    for requirement, hashes in entries.values():
        assert requirement.url is None
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(HASH.fullmatch(each) for each in hashes), requirement


def test_it_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(each) for each in (*project["dependencies"], *extras["demo"], *extras["otlp"])]
    entries = locked()
    for wanted in asked:
        requirement, _ = entries[wanted.name.lower()]
        [pinned] = requirement.specifier
        assert wanted.specifier.contains(pinned.version), f"{wanted}: `make lock`"
        assert str(requirement.marker) == str(wanted.marker), f"{wanted}: where it is needed"


def test_the_image_installs_nothing_else() -> None:
    commands = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip wheel" in line]
    assert len(commands) == 2
    assert "--require-hashes --requirement requirements.lock" in commands[0]
    assert "--no-deps ." in commands[1]

"""What the repository promises about itself before any of it runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_that_is_imported_is_a_dependency() -> None:
    """A package that only ``dev`` brings would be missing where busmesh is installed."""
    provides = {
        "google-re2": {"re2"},
        "nats-py": {"nats"},
        "opentelemetry-sdk": {"opentelemetry"},
        "pydantic": {"pydantic", "pydantic_core"},
        "PyJWT": {"jwt"},
        "pyOpenSSL": {"OpenSSL"},
        "PyYAML": {"yaml"},
        "opentelemetry-exporter-otlp-proto-http": {"opentelemetry"},
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["demo"], *extras["otlp"]]
    names = {re.split(r"[<>=!;\[ ]", requirement)[0] for requirement in wanted}
    known = set().union(*(provides.get(name, {name.lower()}) for name in names)) | {"busmesh"}
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "busmesh").rglob("*.py")
        for name in _imports(ast.parse(file.read_text()))
    }
    assert imported - known - sys.stdlib_module_names == set()


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(name)):
                yield name
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def test_the_envoy_of_the_benchmark_is_not_needed_to_develop() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert not any("envoy" in requirement for name in ("demo", "otlp", "dev") for requirement in extras[name])


def test_no_top_level_package_but_busmesh_is_installed() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["busmesh"]
    assert {Path(target).parts[0] for target in wheel["force-include"].values()} == {"busmesh"}
    for source in wheel["force-include"]:
        assert (ROOT / source).is_dir()


def test_the_command_is_declared() -> None:
    declared = PROJECT["project"]["scripts"]
    assert declared == {"busmesh": "busmesh.cli.main:main"}
    installed = [point.value for point in entry_points(group="console_scripts") if point.name == "busmesh"]
    assert set(installed) <= set(declared.values())


def test_every_target_of_the_makefile_does_something() -> None:
    for target in ("demo", "test", "lint", "bench", "clean"):
        shown = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert shown.stdout.strip(), target


def test_the_changelog_keeps_room_for_the_next_change() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()

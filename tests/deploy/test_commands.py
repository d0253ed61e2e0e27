"""Every busmesh command in docker-compose.yml parses by the command line's own definitions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from busmesh.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every busmesh command: of services without an entrypoint of their own, and in the file's comments."""
    for name, service in SERVICES.items():
        if service["image"] == COMPOSE["x-busmesh"]["image"] and "entrypoint" not in service:
            yield name, service["command"]
    for words in re.findall(r"^# +docker compose run --rm operator (.+)$", TEXT, re.MULTILINE):
        yield "operator", shlex.split(words)


@pytest.mark.parametrize(("name", "words"), [*commands()])
def test_every_command_is_one(name: str, words: list[str], tmp_path: Path) -> None:
    parse(cli, "busmesh", [outside(word, tmp_path) for word in words])


def outside(word: str, folder: Path) -> str:
    """Return the path on this machine for one in a container: the command line looks whether it exists."""
    if word.startswith("/policies/"):
        return str(ROOT / word.lstrip("/"))
    if word in {
        "/etc/busmesh/agent.yaml",
        "/var/lib/busmesh-join/token",
        "/var/lib/busmesh-observer/telemetry.creds",
    }:
        file = folder / Path(word).name
        file.touch()
        return str(file)
    return word


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """Parse ``words`` by the real definitions, down to the last command, and run nothing."""
    context = command.make_context(name, words, parent=parent)
    with context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            found, child, words = command.resolve_command(context, rest)
            assert child is not None
            parse(child, found or "", words, context)


@pytest.mark.parametrize(
    "words", [["agent", "rum"], ["agent", "run", "--buss", "x"], ["policy", "publish", "--x"]]
)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(cli, "busmesh", words)

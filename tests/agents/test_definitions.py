"""Every definition under ``agents/`` loads, fits its schema and the others, and shows commands that exist."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from busmesh.agent.definition import AgentDefinition
from busmesh.agent.settings import SETTINGS, load_definition
from busmesh.cli.main import cli
from busmesh.demo.cast import AGENTS, shipped
from busmesh.yamlfile import read_yaml
from tests.deploy.test_commands import parse

FOLDER = Path(__file__).parents[2] / "agents"
FILES = sorted(FOLDER.glob("*.yaml"))
SCHEMA = FOLDER / "schema" / "Agent.json"
#: Has a container's network to itself, so its ports may be anybody's.
ALONE = "sidecar.yaml"
ids = [file.stem for file in FILES]


def schema_text() -> str:
    made = AgentDefinition.model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=2) + "\n"


def header(file: Path) -> list[str]:
    """The comment at the top, without its signs and with continued lines joined."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:])
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def commands(file: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Environment and words of each busmesh command in the comment."""
    for line in header(file):
        if re.match(r" {3,}\S", line) and " busmesh " in f" {line} ":
            words = shlex.split(line)
            at = words.index("busmesh")
            yield dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


def test_there_are_definitions() -> None:
    assert {role.definition for role in AGENTS} <= {file.name for file in FILES}
    assert all(shipped(f"agents/{file.name}").samefile(file) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_it_loads_and_fits_the_schema(file: Path) -> None:
    load_definition(file, {}, {})
    (document,) = read_yaml(file.read_bytes(), str(file))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document.data)


def test_the_schema_is_that_of_the_model() -> None:
    assert SCHEMA.read_text() == schema_text(), (
        "write it again: python -c"
        " 'from tests.agents.test_definitions import *; SCHEMA.write_text(schema_text())'"
    )


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_it_names_its_schema_and_says_what_it_shows(file: Path) -> None:
    first, *rest = header(file)
    assert first.strip() == "yaml-language-server: $schema=schema/Agent.json"
    assert len(" ".join(rest).split()) > 20


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_the_commands_of_the_comment_exist(file: Path) -> None:
    found = list(commands(file))
    assert any(["agent", "run", f"agents/{file.name}"] == words[:3] for _, words in found)
    variables = {setting.variable for setting in SETTINGS} | {"BUSMESH_BUS", "BUSMESH_JOIN"}
    for environment, words in found:
        assert environment.keys() <= variables
        parse(cli, "busmesh", words)


def test_all_can_run_on_one_machine() -> None:
    definitions = [load_definition(file, {}, {}) for file in FILES if file.name != ALONE]
    addresses = [
        text.rpartition(":")[2]
        for d in definitions
        for text in (d.outbound, d.admin, d.app)
        if text is not None
    ]
    assert [port for port, times in Counter(addresses).items() if times > 1] == []
    names = [definition.instance for definition in definitions]
    assert len(set(names)) == len(names)


def test_the_readme_lists_them_with_their_ports() -> None:
    rows = dict(
        re.findall(r"^\| `(\S+\.yaml)` \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    )
    for file in FILES:
        d = load_definition(file, {}, {})
        app = d.app.rpartition(":")[2] if d.app else "-"
        service, _, ports = rows.pop(file.name).split(" | ")
        assert service == d.service
        assert ports == f"{app}, {d.outbound.rpartition(':')[2]}, {d.admin.rpartition(':')[2]}"
    assert rows == {}

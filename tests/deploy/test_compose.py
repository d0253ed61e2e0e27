"""docker-compose.yml and the Dockerfile, as far as they can be proven where no containers run.

The file is valid by the Compose Specification's own schema: ``compose-spec.json`` beside this test is the
official one (github.com/compose-spec/compose-spec, Apache-2.0), as the PyPI package check-jsonschema 0.39.0
ships it. What a schema cannot say is checked by hand: references lead somewhere, every agent definition is
one, applications and agents agree on ports. That its commands are commands is in ``test_commands.py``.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from busmesh.agent.settings import load_definition
from busmesh.demo import shop

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
AGENTS = {name: service for name, service in SERVICES.items() if service.get("command", [""])[0] == "agent"}
SHOP = {name: s for name, s in SERVICES.items() if "busmesh.demo.shop" in s.get("entrypoint", [])}


def test_the_specification_s_schema_accepts_it() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    assert list(validator.iter_errors({"services": {"a": {"image": "x", "comand": []}}})), (
        "it must be able to fail"
    )


def test_it_has_no_version_key() -> None:
    assert "version" not in COMPOSE


def test_what_it_refers_to_exists() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"], name
        mode, _, shared = service.get("network_mode", "").partition(":")
        assert mode != "service" or shared in SERVICES, name


def test_nobody_waits_for_a_condition_that_never_comes() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            match wait["condition"]:
                case "service_healthy":
                    assert "healthcheck" in SERVICES[other], (name, other)
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"] == "no", (name, other)
                case condition:
                    pytest.fail(f"{name} waits for {condition}")


def test_every_process_that_stays_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        if "profiles" not in service and service["restart"] != "no":
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_every_application_has_its_agent_in_its_network() -> None:
    assert {service["network_mode"] for service in AGENTS.values()} == {f"service:{name}" for name in SHOP}
    assert len(AGENTS) == len(SHOP) == 4
    assert not set(COMPOSE["configs"]) ^ {agent["configs"][0]["source"] for agent in AGENTS.values()}


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_agent_and_application_agree(name: str, tmp_path: Path) -> None:
    agent, config = AGENTS[name], AGENTS[name]["configs"][0]
    assert config["target"] == agent["command"][2]
    file = tmp_path / "agent.yaml"
    file.write_text(COMPOSE["configs"][config["source"]]["content"])
    definition = load_definition(file, {}, {})
    application = SERVICES[agent["network_mode"].removeprefix("service:")]
    words = application["entrypoint"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[:3] == ["python", "-m", "busmesh.demo.shop"]
    assert definition.service == words[3]
    assert definition.labels["version"] == options.get("--version", "v1")
    assert definition.app == f"http://127.0.0.1:{options['--port']}"
    assert application["environment"]["http_proxy"] == f"http://{definition.outbound}"
    assert f"http://127.0.0.1:{options['--port']}/healthz" in application["healthcheck"]["test"][-1]
    assert f"http://{definition.admin}/readyz" in agent["healthcheck"]["test"][-1]
    below = {call[0] for call in shop.CALLS[definition.service].values() if call}
    assert set(definition.upstreams) == below


@pytest.mark.parametrize("name", sorted(SHOP))
def test_the_shop_takes_its_options(name: str) -> None:
    options = shop.command_line().parse_args(SHOP[name]["entrypoint"][3:])
    assert isinstance(options, argparse.Namespace)
    for published in SHOP[name].get("ports", []):
        assert published.startswith("127.0.0.1:")
        assert published.endswith(f":{options.port}")
        assert options.host == "0.0.0.0"


def test_the_authority_s_secrets_reach_only_who_needs_them() -> None:
    mounts = {
        name: [v["source"] if isinstance(v, dict) else v for v in service.get("volumes", [])]
        for name, service in SERVICES.items()
    }
    assert {name for name, found in mounts.items() if any(v.startswith("authority") for v in found)} == {
        "authority",
        "join",
        "lock",
        "observer",
        "operator",
    }
    assert all(SERVICES[name]["network_mode"] == "none" for name in ("join", "lock", "observer"))
    assert all(volume["read_only"] for agent in AGENTS.values() for volume in agent["volumes"])
    assert "authority:/var/lib/busmesh:ro" in mounts["join"]


def test_the_image_runs_as_nobody_special_on_a_supported_python() -> None:
    stages = re.findall(r"^FROM python:(3\.\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert stages == ["3.13", "3.13"]
    instructions = re.findall(r"^(USER|ENTRYPOINT|ENV|FROM) (.+)$", DOCKERFILE, re.MULTILINE)
    assert ("USER", "10001:10001") in instructions
    assert ("ENTRYPOINT", '["busmesh"]') in instructions
    assert "BUSMESH_HOME=/var/lib/busmesh" in DOCKERFILE


def test_the_image_is_built_from_what_the_build_needs_and_nothing_else() -> None:
    copied = [
        w for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE) for w in line.split()
    ]
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)

"""Where a setting comes from: flag, environment, file, default, in this order.

One table names every setting that can be given outside the file, so that the flags, the environment
variables and the help are made of the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from busmesh.agent.definition import AgentDefinition
from busmesh.errors import InvalidDocument, UsageError
from busmesh.yamlfile import (
    InvalidDocuments,
    Plain,
    YamlDocument,
    dotted,
    findings_of,
    read_yaml,
    refuse_errors,
)


def _pairs(text: str) -> Plain:
    pairs: dict[str, Plain] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("write NAME=VALUE, several separated by commas")
        pairs[name.strip()] = value.strip()
    return pairs


def _names(text: str) -> Plain:
    return [part.strip() for part in text.split(",") if part.strip()]


def _text(text: str) -> Plain:
    return text


def _whole(text: str) -> Plain:
    try:
        return int(text)
    except ValueError:
        raise ValueError("write a whole number") from None


def _share(text: str) -> Plain:
    try:
        return float(text)
    except ValueError:
        raise ValueError("write a number from 0 to 1") from None


@dataclass(frozen=True, slots=True)
class Setting:
    """One field that a flag and an environment variable can set."""

    path: tuple[str, ...]
    read: Callable[[str], Plain] = _text

    @property
    def flag(self) -> str:
        return "--" + "-".join(_kebab(part) for part in self.path)

    @property
    def variable(self) -> str:
        return "BUSMESH_" + "_".join(_kebab(part).replace("-", "_").upper() for part in self.path)

    @property
    def parameter(self) -> str:
        """The name of the click parameter."""
        return "set_" + "_".join(_kebab(part).replace("-", "_") for part in self.path)


def _kebab(name: str) -> str:
    return "".join("-" + c.lower() if c.isupper() else c for c in name)


SETTINGS: tuple[Setting, ...] = (
    Setting(("service",)),
    Setting(("instance",)),
    Setting(("labels",), _pairs),
    Setting(("weight",), _whole),
    Setting(("locality",)),
    Setting(("app",)),
    Setting(("health", "path")),
    Setting(("health", "interval")),
    Setting(("health", "timeout")),
    Setting(("health", "unhealthyAfter"), _whole),
    Setting(("health", "healthyAfter"), _whole),
    Setting(("outbound",)),
    Setting(("admin",)),
    Setting(("workers",), _whole),
    Setting(("upstreams",), _names),
    Setting(("drain",)),
    Setting(("limits", "maxRequests"), _whole),
    Setting(("limits", "maxPending"), _whole),
    Setting(("limits", "maxConnections"), _whole),
    Setting(("limits", "maxBody"), _whole),
    Setting(("limits", "maxHeaderBytes"), _whole),
    Setting(("limits", "maxHeaders"), _whole),
    Setting(("limits", "headerTimeout")),
    Setting(("limits", "idleTimeout")),
    Setting(("limits", "minRate"), _whole),
    Setting(("telemetry", "accessLog"), _share),
    Setting(("telemetry", "tracing"), _share),
)


def load_definition(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, str | None]
) -> AgentDefinition:
    """Put a definition together.

    Args:
        file: the definition, or None to take all from elsewhere.
        environment: environment variables.
        flags: by :attr:`Setting.parameter`, None where a flag was not given.

    Raises:
        InvalidDocuments: something in the file, with file, line and column.
        InvalidDocument: a value from a flag or variable, which it names.
    """
    document = _read(file) if file is not None else YamlDocument({}, "")
    if not isinstance(document.data, dict):
        raise InvalidDocuments([document.finding("BM1203", "an agent definition is a mapping")])
    data: dict[str, Plain] = json.loads(json.dumps(document.data))
    sources: dict[tuple[str, ...], str] = {}
    for setting in SETTINGS:
        for text, source in (
            (flags.get(setting.parameter), setting.flag),
            (environment.get(setting.variable), setting.variable),
        ):
            if text is not None:
                _place(data, setting, text, source)
                sources[setting.path] = source
                break
    try:
        # JSON mode: a list may stand for a tuple, as it does in a file.
        return AgentDefinition.model_validate(data)
    except ValidationError as error:
        findings = findings_of(error, document, AgentDefinition)
        for finding in findings:
            for set_path, source in sources.items():
                if finding.path[: len(set_path)] == set_path:
                    message = finding.message.replace(dotted(set_path), source, 1)
                    raise InvalidDocument(message, code=finding.code, hint=finding.hint) from None
        if not document.file:
            missing = "; ".join(finding.message for finding in findings)
            raise UsageError(
                missing, code="BM1202", hint="give a FILE, or set it by flag or environment"
            ) from None
        refuse_errors(findings)
        raise


def _read(file: Path) -> YamlDocument:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", code="BM1100") from None
    documents = read_yaml(data, str(file))
    if len(documents) > 1:
        raise InvalidDocuments(
            [documents[1].finding("BM1114", "a file defines one agent", hint="split the file")]
        )
    return documents[0]


def _place(data: dict[str, Any], setting: Setting, text: str, source: str) -> None:
    try:
        value = setting.read(text)
    except ValueError as error:
        raise InvalidDocument(f"{source}: {text!r} cannot be read: {error}", code="BM1203") from None
    *parents, last = setting.path
    for part in parents:
        data = data.setdefault(part, {})
    data[last] = value

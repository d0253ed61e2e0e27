"""From what pydantic found in a document to findings with places."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from busmesh.yamlfile.findings import Finding, Path, YamlDocument, dotted, nearest, shorten

#: Says why a field that a model does not have is refused in a way of its own: (code, message, hint).
KnownField = Callable[[type[BaseModel], str], tuple[str, str, str] | None]


def findings_of(
    error: ValidationError, document: YamlDocument, model: type[BaseModel], known: KnownField | None = None
) -> list[Finding]:
    """Turn what pydantic found in a document into findings with places.

    A validator gives its own code and mend by raising ``PydanticCustomError("BM1...", message,
    {"hint": ...})``.

    Args:
        error: what ``model.model_validate(document.data)`` raised.
        document: the document.
        model: the model, for the names of its valid fields.
        known: looked at for each unknown field, before it is called unknown.
    """
    found = [_finding_of(dict(detail), document, model, known) for detail in error.errors(include_url=False)]
    return sorted(found, key=lambda finding: (finding.line, finding.column))


def _finding_of(
    detail: dict[str, Any], document: YamlDocument, model: type[BaseModel], known: KnownField | None
) -> Finding:
    path: Path = tuple(part for part in detail["loc"] if part != "[key]")
    kind, context = detail["type"], detail.get("ctx", {})
    at_key = "[key]" in detail["loc"]
    if kind == "extra_forbidden":
        *parent, key = path
        owner = model_at(model, tuple(parent))
        if known and owner and (refusal := known(owner, str(key))):
            code, message, hint = refusal
            return document.finding(code, message, path, hint=hint, key=True)
        valid = field_names(owner) if owner else []
        guess = nearest(str(key), valid)
        hint = f"did you mean {guess!r}?" if guess else f"valid here: {', '.join(valid)}"
        where = f" in {dotted(tuple(parent))}" if parent else ""
        message = f"unknown field {shorten(str(key))!r}{where}"
        return document.finding("BM1201", message, path, hint=hint, key=True)
    if kind == "missing":
        return document.finding("BM1202", f"{dotted(path)} is missing", path)
    if kind.startswith("BM"):
        message = f"{dotted(path)}: {detail['msg']}" if path else detail["msg"]
        return document.finding(kind, message, path, hint=context.get("hint", ""), key=at_key)
    message = f"{dotted(path) or 'the document'} {_in_yaml_words(detail['msg'])}"
    if kind.endswith("_type"):
        scalar = isinstance(detail["input"], bool | int | float)
        hint = (
            f'put it in quotes: "{json.dumps(detail["input"])}"' if kind == "string_type" and scalar else ""
        )
        return document.finding("BM1203", message, path, hint=hint)
    guess = nearest(str(detail["input"]), re.findall(r"'([^']*)'", str(context.get("expected", ""))))
    return document.finding("BM1204", message, path, hint=f"did you mean {guess!r}?" if guess else "")


#: pydantic's words for types of Python -> words of YAML.
_WORDS = {
    "Input should": "must",
    "a valid tuple": "a list",
    "a valid list": "a list",
    "a valid dictionary": "a mapping",
    "Value error, ": "",
}


def _in_yaml_words(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return re.sub(r"a mapping or instance of \w+", "a mapping", message)


def field_names(model: type[BaseModel]) -> list[str]:
    """Return the names that a document may write for the fields of ``model``."""
    return [info.alias or name for name, info in model.model_fields.items()]


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the model that describes what stands at ``path`` below ``model``, None if no model does."""
    at: Any = model
    for part in path:
        at = _unwrapped(at)
        if isinstance(at, type) and issubclass(at, BaseModel):
            fields = {info.alias or name: info.annotation for name, info in at.model_fields.items()}
            at = fields.get(str(part))
        else:  # an item of a sequence, or a value of a mapping
            arguments = get_args(at)
            at = arguments[-1 if get_origin(at) in (dict, Mapping) else 0] if arguments else None
    at = _unwrapped(at)
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _unwrapped(annotation: Any) -> Any:
    """Take ``Annotated`` and ``| None`` off."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        arguments = [part for part in get_args(annotation) if part is not type(None)]
        annotation = arguments[0]
    return annotation

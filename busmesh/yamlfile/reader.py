"""Strict YAML, read and written; see the package for why it is a subset.

The parser's events are read with a stack of our own, so that nesting costs no recursion and each bound is
met before the memory behind it is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from busmesh.yamlfile.findings import Finding, InvalidDocuments, Path, Plain, Position, YamlDocument, shorten

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
#: A node costs about 1 KiB while it is read; no sensible file has a tenth of this.
MAX_NODES = 50_000
MAX_INT = 2**63 - 1

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
#: What YAML 1.2 (section 5.1) does not let into a document, NUL and lone surrogates among them; and the
#: three characters that end a line in YAML 1.1 only.
FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_yaml(data: bytes, file: str) -> list[YamlDocument]:
    """Read every document of a file; those that say nothing are left out.

    Raises:
        InvalidDocuments: anything outside the subset, with its line and column.
    """
    if len(data) > MAX_BYTES:
        raise _refusal(file, "BM1103", "the file is larger than 1 MiB", Position())
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        raise _refusal(file, "BM1102", "not UTF-8", _position_after(before)) from None
    if bad := FORBIDDEN.search(text):
        where = _position_after(text[: bad.start()])
        raise _refusal(file, "BM1104", f"character {bad[0]!a} may not stand in YAML", where)
    documents = [document for document in _documents(_events(text, file), file) if document.data is not None]
    if not documents:
        raise _refusal(file, "BM1113", "the file holds no document", Position())
    return documents


def write_yaml(data: Plain) -> str:
    """Write ``data`` so that :func:`read_yaml` gives back the same, keys in their order."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text.removesuffix("...\n")


class _Dumper(yaml.SafeDumper):
    """Quotes what is a number or a word for us or for YAML 1.1, and never writes an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _position_after(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _refusal(file: str, code: str, message: str, where: Position, hint: str = "") -> InvalidDocuments:
    return InvalidDocuments([Finding("error", code, message, file, *where, hint=hint)])


def _too_deep(file: str, where: Position) -> InvalidDocuments:
    return _refusal(file, "BM1109", f"nested deeper than {MAX_DEPTH} levels", where)


def _mark(mark: Any) -> Position:
    return Position() if mark is None else Position(mark.line + 1, mark.column + 1)


def _events(text: str, file: str) -> Iterator[Any]:
    """The parser's events; its errors become ours."""
    try:
        yield from yaml.parse(text, Loader=_Parser)
    except yaml.MarkedYAMLError as error:
        where = _mark(error.problem_mark or error.context_mark)
        if "nesting depth" in (error.problem or ""):  # from 6.0.4 on the scanner has a bound of its own
            raise _too_deep(file, where) from None
        message = f"not YAML: {error.problem or error.context}"
        hint = "indent with spaces" if "tab" in message else ""
        raise _refusal(file, "BM1101", message, where, hint) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # no mark: a directive or an escape
        raise _refusal(file, "BM1101", f"not YAML: {error}", Position()) from None


@dataclass(slots=True)
class _Frame:
    """An open sequence or mapping; ``key`` is the one whose value is due, None where a key is due."""

    path: Path
    container: Any
    key: str | None = None


def _documents(events: Iterator[Any], file: str) -> Iterator[YamlDocument]:
    """Build plain data from events; each kind of event is one arm."""
    nodes = 0
    for event in events:
        match event:
            case yaml.DocumentStartEvent():
                stack: list[_Frame] = []
                values: dict[Path, Position] = {}
                keys: dict[Path, Position] = {}
                root: list[Plain] = []
            case yaml.DocumentEndEvent():
                yield YamlDocument(root[0], file, values, keys)
            case yaml.NodeEvent():
                nodes += 1
                _check_node(event, file, nodes, len(stack))
                if stack and isinstance(stack[-1].container, dict) and stack[-1].key is None:
                    stack[-1].key = _key(event, stack[-1], file)
                    keys[(*stack[-1].path, stack[-1].key)] = _mark(event.start_mark)
                    continue
                path, value = _place(stack, root, event, file)
                values[path] = _mark(event.start_mark)
                if isinstance(value, list | dict):
                    stack.append(_Frame(path, value))
            case yaml.CollectionEndEvent():
                stack.pop()
            case _:  # the stream's start and end
                pass


def _check_node(event: Any, file: str, nodes: int, depth: int) -> None:
    """Refuse the constructs that the subset leaves out, and more or deeper than its bounds."""
    where = _mark(event.start_mark)
    if event.anchor is not None:
        sign, what = ("*", "an alias") if isinstance(event, yaml.AliasEvent) else ("&", "an anchor")
        shown = f"{sign}{shorten(event.anchor)}"
        raise _refusal(file, "BM1106", f"{what} ({shown}) is not allowed", where, "write the value out")
    if event.tag is not None:
        raise _refusal(file, "BM1110", f"the tag {shorten(event.tag)} is not allowed", where, "remove it")
    if nodes > MAX_NODES:
        raise _refusal(file, "BM1112", f"more than {MAX_NODES} values in one file", where, "split the file")
    if depth >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
        raise _too_deep(file, where)


def _key(event: Any, frame: _Frame, file: str) -> str:
    where = _mark(event.start_mark)
    if not isinstance(event, yaml.ScalarEvent):
        raise _refusal(file, "BM1108", "a key must be a string", where)
    key = _scalar(event, file)
    if not isinstance(key, str):
        raise _refusal(file, "BM1108", f"the key {event.value} is not a string", where, "put it in quotes")
    if key == "<<" and event.implicit[0]:
        raise _refusal(file, "BM1107", "a merge key (<<) is not allowed", where, "write the values out")
    if key in frame.container:
        raise _refusal(
            file, "BM1105", f"the key {shorten(key)!r} stands twice here", where, "keep one of them"
        )
    return key


def _place(stack: list[_Frame], root: list[Plain], event: Any, file: str) -> tuple[Path, Plain]:
    """Put the value that begins with ``event`` where it belongs; return its path and itself."""
    value: Plain
    match event:
        case yaml.ScalarEvent():
            value = _scalar(event, file)
        case yaml.SequenceStartEvent():
            value = []
        case _:
            value = {}
    if not stack:
        root.append(value)
        return (), value
    frame = stack[-1]
    path: Path
    if isinstance(frame.container, list):
        path = (*frame.path, len(frame.container))
        frame.container.append(value)
        return path, value
    path = (*frame.path, str(frame.key))
    frame.container[frame.key] = value
    frame.key = None
    return path, value


def _scalar(event: Any, file: str) -> bool | int | float | str | None:
    """Resolve a scalar: quoted ones are strings, plain ones what JSON would have, else strings."""
    text: str = event.value
    where = _mark(event.start_mark)
    if bad := FORBIDDEN.search(text):
        raise _refusal(file, "BM1104", f"character {bad[0]!a} may not stand in a value", where)
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 20 or abs(int(text)) > MAX_INT:
            raise _refusal(file, "BM1111", f"{shorten(text)} does not fit in 64 bits", where)
        return int(text)
    if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not math.isfinite(float(text))):
        raise _refusal(file, "BM1111", f"{shorten(text)} is not a finite number", where)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text

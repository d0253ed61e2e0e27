"""Findings: what is wrong or doubtful in a document, where it stands, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from busmesh.errors import InvalidDocument

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
#: Where a value stands: the keys and indexes that lead to it from the root of its document.
Path = tuple[str | int, ...]
Level = Literal["error", "warning"]


class Position(NamedTuple):
    """Line and column, both counted from 1; 0 when a document did not come from a file."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or doubtful in a document, and how to mend it.

    Codes are stable: ``BM1...`` is about syntax and shape, ``BM2...`` about meaning.
    """

    level: Level
    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    path: Path = ()
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        level = "warning " if self.level == "warning" else ""
        mend = f" ({self.hint})" if self.hint else ""
        return f"{where if self.file else ''}{level}{self.code} {self.message}{mend}"


class InvalidDocuments(InvalidDocument):
    """Everything that was found at once, so that one round of mending is enough.

    Attributes:
        findings: all of them, warnings included, in the order of the files.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        first = next((finding for finding in self.findings if finding.level == "error"), self.findings[0])
        super().__init__(first.message, code=first.code, hint=first.hint)

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raise all ``findings`` if one of them is an error.

    Raises:
        InvalidDocuments: with every finding.
    """
    if any(finding.level == "error" for finding in findings):
        raise InvalidDocuments(findings)


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a file as plain data, with the place of every node.

    Attributes:
        data: what it says.
        file: how findings name the file.
        values: where each value begins.
        keys: where the key of each value in a mapping begins.
    """

    data: Plain
    file: str = ""
    values: Mapping[Path, Position] = field(default_factory=dict, repr=False)
    keys: Mapping[Path, Position] = field(default_factory=dict, repr=False)

    def position(self, path: Path, *, key: bool = False) -> Position:
        """Return where ``path`` stands; for a path that is not there, where its nearest ancestor does."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Position())

    def finding(
        self,
        code: str,
        message: str,
        path: Path = (),
        *,
        hint: str = "",
        level: Level = "error",
        key: bool = False,
    ) -> Finding:
        """Make a finding about ``path``, at its value or, with ``key``, at its key."""
        line, column = self.position(path, key=key)
        return Finding(level, code, message, self.file, line, column, path, hint)


def shorten(text: str, limit: int = 60) -> str:
    """Cut a text that somebody else wrote to what an error line can bear."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest(key: str, valid: Iterable[str]) -> str | None:
    """Return the one of ``valid`` that ``key`` was probably meant to be, None if none is near."""
    import difflib  # for typing errors only: an agent at rest does without

    lower = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(key[:80].lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else None


def dotted(path: Path) -> str:
    """Write a path as people do: ``spec.http[0].route``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" if text else shorten(part)
    return text

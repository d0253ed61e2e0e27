"""Which files are meant by what a person types: files, folders, patterns, ``-`` for standard input."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from busmesh.errors import UsageError
from busmesh.policy.load import STDIN

_ENDINGS = (".yaml", ".yml")


def expand(words: Iterable[str]) -> list[str]:
    """Return the sources that ``words`` mean, each once, in the order in which they were named.

    A folder means the YAML files directly in it, by name; a pattern those that it matches, for shells that do
    not expand one. What is neither is taken for a file, and reading it says if there is none.

    Raises:
        UsageError: a folder or a pattern without any YAML file (code BM2306).
    """
    found: dict[str, None] = {}
    for word in words:
        path = Path(word)
        if word == STDIN or path.is_file():
            found[word] = None
        elif path.is_dir():
            found |= dict.fromkeys(_in_folder(path))
        elif glob.has_magic(word):
            found |= dict.fromkeys(_matching(word))
        else:
            found[word] = None
    return list(found)


def _in_folder(folder: Path) -> list[str]:
    files = sorted(str(path) for path in folder.iterdir() if path.suffix in _ENDINGS and path.is_file())
    return files or _nothing(f"the folder {folder} holds no YAML file")


def _matching(pattern: str) -> list[str]:
    files = [name for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    return files or _nothing(f"the pattern {pattern} matches no file")


def _nothing(message: str) -> list[str]:
    raise UsageError(
        message, code="BM2306", hint="name files that end in .yaml or .yml, or - for standard input"
    )

"""The log of revisions, looked back on: what stood at a time, the way back, and what changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from busmesh.errors import NotFound
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.revision import EMPTY, PolicySet, Revision, fold
from busmesh.yamlfile import write_yaml


def rebuild(history: Iterable[Revision], to_number: int | None = None) -> PolicySet:
    """Fold a whole log, from revision 1, up to ``to_number`` or to its end.

    Raises:
        NotFound: the log does not reach ``to_number``.
        RevisionRefused: it has a gap or was tampered with.
    """
    current = EMPTY
    for revision in history:
        if to_number is not None and current.number >= to_number:
            break
        current = fold(current, revision)
    if to_number is not None and current.number != to_number:
        raise NotFound(
            f"there is no revision {to_number}: the log ends at {current.number}",
            code="BM2208",
            hint="busmesh policy history",
        )
    return current


def revert(history: Iterable[Revision], to_number: int) -> tuple[list[Document], list[DocumentKey]]:
    """Return what a new revision must put and remove so that the set is again that of ``to_number``.

    Both are empty if it is that already. 0 stands for the empty set at the beginning.

    Raises:
        NotFound: the log has no such revision.
    """
    history = list(history)
    then, now = rebuild(history, to_number), rebuild(history)
    put = [document for key, document in then.documents.items() if now.documents.get(key) != document]
    return put, [key for key in now.documents if key not in then.documents]


def diff(old: PolicySet, new: PolicySet) -> list[str]:
    """Return the lines of a unified diff between two sets, each document written as YAML."""
    lines: list[str] = []
    for key in sorted(old.documents.keys() | new.documents.keys()):
        before, after = old.documents.get(key), new.documents.get(key)
        if before != after:
            lines += difflib.unified_diff(
                _lines(before),
                _lines(after),
                fromfile=f"{key} (revision {old.number})" if before else "(absent)",
                tofile=f"{key} (revision {new.number})" if after else "(absent)",
                lineterm="",
            )
    return lines


def _lines(document: Document | None) -> list[str]:
    return write_yaml(document.plain).splitlines() if document else []

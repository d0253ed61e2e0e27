"""The table of features: what it says works is shown by tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "policies" / "FEATURES.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| Feature |")
]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_works_is_shown_by_a_test_and_what_does_not_is_said_plainly(row: list[str]) -> None:
    _, works, _, shown = row
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
    assert works in ("yes", "in part", "not yet")
    assert bool(named) == (works != "not yet")
    assert len(named) == shown.count("::")
    for file, test in named:
        assert test in functions(ROOT / file), f"{file} has no {test}"


def test_no_row_is_lost() -> None:
    assert len(ROWS) >= 49

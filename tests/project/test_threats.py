"""The threat model: each threat has a test of its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "SECURITY.md").read_text(), re.M)
SHOWN = [
    (int(number), file, test)
    for number, row in ROWS
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
]


@pytest.mark.parametrize(("number", "file", "test"), SHOWN)
def test_a_threat_has_a_test_of_its_name(number: int, file: str, test: str) -> None:
    named = {
        node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert test.startswith((f"test_t{number:02}_", f"proof_of_t{number:02}_"))
    assert test in named


def test_no_threat_is_left_out() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 33))
    tested = {number for number, _, test in SHOWN if test.startswith("test_")}
    assert tested == set(range(1, 33)), "each has one in the suite"

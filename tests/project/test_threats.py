"""The threat model: each threat has a test of its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (\d+) \|.*`(tests/[\w/]+\.py)::(\w+)` \|$", (ROOT / "SECURITY.md").read_text(), re.M)


@pytest.mark.parametrize(("number", "file", "test"), ROWS)
def test_a_threat_has_a_test_of_its_name(number: str, file: str, test: str) -> None:
    named = {
        node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert test.startswith(f"test_t{int(number):02}_")
    assert test in named


def test_no_threat_is_left_out() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 33))

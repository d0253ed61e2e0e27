"""Pure packages decide from what they are given: no clock, no shared randomness, no waiting, no log.

The import contracts hold the modules out (`time`, `asyncio`, `socket`); this holds what an import cannot
tell: a call of ``datetime.now()`` beside the harmless ``datetime.fromtimestamp()``, or an ``async def``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import busmesh

PACKAGES = ("decide", "members", "policy")
ROOT = Path(busmesh.__file__).parent
#: Called on any object: nothing that decides has another method of these names.
CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns"}
IO_CALLS = {"open", "print", "input"}
#: The one module of a pure package that reads files, and says so in ARCHITECTURE.md.
READS_FILES = {"policy/load.py"}


def impurities(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for everything in ``source`` that a pure module may not do."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "waits"
            case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCKS:
                yield node.lineno, f"asks a clock: .{name}()"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr=name)) if name != "Random":
                yield node.lineno, f"shared randomness: random.{name}()"
            case ast.Call(func=ast.Name(id=name)) if name in IO_CALLS:
                yield node.lineno, f"{name}()"
            case ast.Global():
                yield node.lineno, "global state"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_pure_package_only_decides(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, "the package has moved: say where"
    found = [
        f"{file.relative_to(ROOT)}:{line}: {what}"
        for file in files
        if file.relative_to(ROOT).as_posix() not in READS_FILES
        for line, what in impurities(file.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "async def f(): pass",
        "x = datetime.now(UTC)",
        "x = datetime.datetime.today()",
        "random.random()",
        "random.shuffle(x)",
        "clock.monotonic()",
        "print(1)",
        "open('x')",
        "def f():\n    global g\n    g = 1",
    ],
)
def test_the_check_finds(source: str) -> None:
    assert len(list(impurities(source))) == 1


def test_the_check_lets_pass() -> None:
    fine = (
        "from random import Random\ndef f(now: float, rng: Random) -> float:\n    return now + rng.random()"
    )
    assert list(impurities(fine)) == []

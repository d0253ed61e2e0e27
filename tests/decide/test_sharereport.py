from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.sharereport import (
    MAX_BYTES,
    MAX_DEMAND,
    MAX_ENTRIES,
    VERSION,
    Entry,
    Report,
    parse_report,
)
from busmesh.errors import RemoteProtocolError

KEY = b"\x01" * 8


def report(*rows: object) -> list[Any]:
    return [VERSION, 1_700_000_000_000, 7, list(rows)]


@given(
    st.dictionaries(
        st.binary(min_size=8, max_size=8),
        st.tuples(st.integers(0, 10**9), st.integers(0, 2**53 - 1), st.integers(-(10**9), 10**9)),
        max_size=MAX_ENTRIES,
    ),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
)
def test_what_is_said_is_what_is_read(
    rows: dict[bytes, tuple[int, int, int]], born: int, sequence: int
) -> None:
    entries = {
        key: Entry(demand / 1000, admitted, balance / 1000)
        for key, (demand, admitted, balance) in rows.items()
    }
    said = Report(born, sequence, entries)
    assert parse_report(msgpack.unpackb(msgpack.packb(said.to_plain()))) == said


def test_a_demand_beyond_all_bounds_is_cut_so_that_it_can_be_read() -> None:
    said = Report(1, 1, {KEY: Entry(1e12, 1, -1e12)})
    assert parse_report(said.to_plain()).entries[KEY] == Entry(MAX_DEMAND, 1, -MAX_DEMAND)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        "report",
        [2, 1, 1, []],
        [VERSION, 1, 1],
        [VERSION, 1, 1, {}],
        [VERSION, 1, 1, [], 5],
        [VERSION, -1, 1, []],
        [VERSION, 1, 2**53, []],
        [VERSION, 1.0, 1, []],
        report(None),
        report([KEY, 1, 1]),
        report([KEY, 1, 1, 1, 1]),
        report([KEY[:7], 1, 1, 1]),
        report([KEY.decode(), 1, 1, 1]),
        report([KEY, -1, 1, 1]),
        report([KEY, MAX_DEMAND * 1000 + 1, 1, 1]),
        report([KEY, float("inf"), 1, 1]),
        report([KEY, float("nan"), 1, 1]),
        report([KEY, 1, -1, 1]),
        report([KEY, 1, 2**53, 1]),
        report([KEY, 1, 1.5, 1]),
        report([KEY, 1, 1, 0.5]),
        report([KEY, 1, 1, float("-inf")]),
        report([KEY, 1, 1, -MAX_DEMAND * 1000 - 1]),
        report([KEY, 1, 1, 1], [KEY, 2, 2, 2]),
        report(*([bytes([i]) * 8, 1, 1, 1] for i in range(MAX_ENTRIES + 1))),
    ],
)
def test_what_no_agent_writes_is_refused(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_report(value)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.one_of(json, st.lists(json, min_size=3, max_size=3).map(lambda rest: [VERSION, *rest])))
def test_anything_is_read_or_refused(value: object) -> None:
    try:
        read = parse_report(value)
    except RemoteProtocolError:
        return
    assert parse_report(read.to_plain()) == read


def test_a_report_has_the_bytes_that_the_module_says() -> None:
    def size(keys: int) -> int:
        entries = {bytes([i]) * 8: Entry(1234.5, 10**9 + i, -12.345) for i in range(keys)}
        return len(msgpack.packb(Report(1_700_000_000_000, 10**6, entries).to_plain()))

    assert size(0) <= 20
    assert 20 <= size(1) - size(0) <= 30
    assert 10 * size(20) < 6000
    assert size(MAX_ENTRIES) < MAX_BYTES

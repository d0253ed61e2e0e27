from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.headers import HeaderOps
from busmesh.decide.request import Headers, join_headers, split_headers

HEADERS: Headers = [
    (b"Host", b"orders"),
    (b"X-A", b"1"),
    (b"Accept", b"*/*"),
    (b"x-a", b"2"),
    (b"x-ab", b"3"),
]


@pytest.mark.parametrize(
    ("ops", "after"),
    [
        (HeaderOps(), HEADERS),
        (
            HeaderOps(remove=["X-a"]),
            [(b"Host", b"orders"), (b"Accept", b"*/*"), (b"x-ab", b"3")],
        ),
        (
            HeaderOps(put={"X-A": "9"}),
            [(b"Host", b"orders"), (b"Accept", b"*/*"), (b"x-ab", b"3"), (b"X-A", b"9")],
        ),
        (HeaderOps(put={"x-new": "9"}), [*HEADERS, (b"x-new", b"9")]),
        (HeaderOps(add={"x-A": "9"}), [*HEADERS, (b"x-A", b"9")]),
        (
            HeaderOps(remove=["x-a"], put={"x-ab": "s"}, add={"x-a": "a", "x-ab": "é"}),
            [
                (b"Host", b"orders"),
                (b"Accept", b"*/*"),
                (b"x-ab", b"s"),
                (b"x-a", b"a"),
                (b"x-ab", b"\xc3\xa9"),
            ],
        ),
    ],
)
def test_headers_are_removed_then_set_then_added(ops: HeaderOps, after: Headers) -> None:
    before = list(HEADERS)
    assert ops.apply(HEADERS) == after
    assert split_headers(ops.apply_block(join_headers(HEADERS))) == after
    assert before == HEADERS, "the list given stays as it is"


names = st.sampled_from(["a", "A", "ab", "x-a", "X-A", "b", "a-b"])
values = st.text(alphabet="ab: ,-A", max_size=5).map(str.strip)


@given(
    st.lists(st.tuples(names, values), max_size=8),
    st.lists(names, max_size=3),
    st.dictionaries(names, values, max_size=2),
    st.dictionaries(names, values, max_size=2),
)
def test_a_block_and_a_list_come_out_alike(
    headers: list[tuple[str, str]], remove: list[str], put: dict[str, str], add: dict[str, str]
) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    ops = HeaderOps(put=put, add=add, remove=remove)
    assert split_headers(ops.apply_block(join_headers(pairs))) == ops.apply(pairs)


def test_an_empty_block_can_be_added_to() -> None:
    assert HeaderOps(put={"a": "1"}).apply_block(b"") == b"a: 1\r\n"
    assert HeaderOps(remove=["a"]).apply_block(b"a: 1\r\n") == b""

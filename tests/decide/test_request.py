"""The head of a request: the same whether it was made of pairs or of a block."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.request import RequestHead, join_headers, split_headers

_NAME = st.from_regex(rb"\A[A-Za-z-]{1,12}\Z")
_VALUE = st.from_regex(rb"\A[!-~\x80-\xff]([ -~\t\x80-\xff]{0,12}[!-~\x80-\xff])?\Z") | st.just(b"")
_HEADERS = st.lists(st.tuples(_NAME, _VALUE), max_size=6)


@given(_HEADERS)
def test_headers_come_back_from_their_block(headers: list[tuple[bytes, bytes]]) -> None:
    assert split_headers(join_headers(headers)) == headers


@given(_HEADERS)
def test_a_head_made_of_a_block_is_one_made_of_pairs(headers: list[tuple[bytes, bytes]]) -> None:
    made = RequestHead(b"GET", b"/p?q", headers)
    read = RequestHead.from_block(b"GET", b"/p?q", made.block)
    assert read.block == made.block
    for name in {name.lower() for name, _ in headers} | {b"absent"}:
        assert read.header(name) == made.header(name)
    assert read.headers == headers


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", []),
        (b"A:b\r\n", [(b"A", b"b")]),
        (b"A: \t b \t\r\n", [(b"A", b"b")]),
        (b"A:\r\n", [(b"A", b"")]),
        (b"A: b:c\r\nA: d\r\n", [(b"A", b"b:c"), (b"A", b"d")]),
        (b"A: \xff\r\n", [(b"A", b"\xff")]),
    ],
)
def test_a_block_is_taken_apart(block: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    assert split_headers(block) == headers


def test_a_header_is_found_in_any_case_and_several_are_joined() -> None:
    head = RequestHead.from_block(b"GET", b"/", b"X-A: 1\r\nother: o\r\nx-a: 2\r\nX-a: 3\r\n")
    assert head.header(b"x-a") == b"1, 2, 3"
    assert head.header(b"other") == b"o"
    assert head.header(b"X-A") is None, "names are asked for in lower case"
    assert head.header(b"absent") is None


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a/b?c=d&e", b"/a/b", b"c=d&e"),
        (b"/a?", b"/a", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"*", b"*", b""),
    ],
)
def test_path_and_query_are_parts_of_the_target(target: bytes, path: bytes, query: bytes) -> None:
    head = RequestHead(b"GET", target, [])
    assert (head.path, head.query) == (path, query)


def test_it_shows_itself() -> None:
    assert repr(RequestHead(b"GET", b"/", [(b"A", b"b")])) == "<RequestHead b'GET' b'/' headers=1>"

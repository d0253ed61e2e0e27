from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide import match
from busmesh.decide.match import Condition
from busmesh.decide.request import Headers, RequestHead

X_CANARY = b"x-canary"


def head(target: bytes = b"/", headers: Headers | None = None, method: bytes = b"GET") -> RequestHead:
    return RequestHead(method, target, headers or [])


@pytest.mark.parametrize(
    ("condition", "target", "expected"),
    [
        (match.path_passes(match.exact(b"/a")), b"/a", True),
        (match.path_passes(match.exact(b"/a")), b"/a?b=1", True),
        (match.path_passes(match.exact(b"/a")), b"/a/", False),
        (match.path_passes(match.exact(b"/a")), b"/A", False),
        (match.path_passes(match.prefix(b"/a")), b"/ab/c", True),
        (match.path_passes(match.prefix(b"/a")), b"/b?/a", False),
        (match.path_passes(match.prefix(b"/a/")), b"/%61/", False),
        (match.path_passes(match.in_lower_case(match.exact(b"/a"))), b"/A", True),
        (match.query_passes(b"q", None), b"/?q", True),
        (match.query_passes(b"q", None), b"/?qq=1", False),
        (match.query_passes(b"q", None), b"/", False),
        (match.query_passes(b"q", match.exact(b"1")), b"/?a=2&q=1", True),
        (match.query_passes(b"q", match.exact(b"1")), b"/?q=2&q=1", False),
        (match.query_passes(b"q", match.prefix(b"")), b"/?q=", True),
    ],
)
def test_path_and_query(condition: Condition, target: bytes, expected: bool) -> None:
    assert condition(head(target)) is expected


def test_the_method_is_compared_as_sent() -> None:
    condition = match.method_passes(match.exact(b"GET"))
    assert condition(head())
    assert not condition(head(method=b"get"))


@pytest.mark.parametrize(
    ("headers", "present", "is_always"),
    [
        ([], False, False),
        ([(b"X-Canary", b"always")], True, True),
        ([(b"x-canary", b" always\t")], True, True),
        ([(b"x-canary", b"never")], True, False),
        ([(b"x-canary", b"")], True, False),
        ([(b"x-canary-2", b"always"), (b"y", b"x-canary: always")], False, False),
        ([(b"x-canary", b"always"), (b"b", b"c"), (b"X-CANARY", b"always")], True, False),
    ],
)
def test_headers_are_found_in_any_case_and_several_are_joined(
    headers: Headers, present: bool, is_always: bool
) -> None:
    request = head(headers=headers)
    always = match.exact(b"always")
    assert match.header_passes(X_CANARY, None)(request) is present
    assert match.header_fails(X_CANARY, None)(request) is not present
    assert match.header_passes(X_CANARY, always)(request) is is_always
    assert match.header_fails(X_CANARY, always)(request) is not is_always


header_names = st.sampled_from([b"a", b"A", b"ab", b"x-a", b"X-a"])
header_values = st.binary(max_size=6).filter(lambda value: not set(value) & set(b"\r\n"))


@given(st.lists(st.tuples(header_names, header_values), max_size=6), header_names)
def test_one_search_finds_what_the_index_of_the_head_holds(headers: Headers, name: bytes) -> None:
    block = head(headers=headers).block
    taken_apart = RequestHead.from_block(b"GET", b"/", block)
    assert match.header_value(block, name.lower()) == taken_apart.header(name.lower())


def query_by_taking_apart(query: bytes, name: bytes) -> bytes | None:
    for part in query.split(b"&"):
        key, _, value = part.partition(b"=")
        if key == name:
            return value
    return None


@given(st.text(alphabet="ab=&", max_size=12), st.text(alphabet="ab", min_size=1, max_size=2))
def test_searching_a_query_gives_what_taking_it_apart_would(query: str, name: str) -> None:
    assert match.query_value(query.encode(), name.encode()) == query_by_taking_apart(
        query.encode(), name.encode()
    )


def yes(_: RequestHead) -> bool:
    return True


def no(_: RequestHead) -> bool:
    return False


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([yes], True),
        ([no], False),
        ([yes, no], False),
        ([yes, yes], True),
        ([yes, yes, no], False),
        ([yes, yes, yes], True),
    ],
)
def test_all_conditions_of_an_entry_are_needed(conditions: list[Condition], expected: bool) -> None:
    combined = match.all_of(conditions)
    assert combined is not None
    assert combined(head()) is expected


def test_an_entry_without_conditions_always_holds() -> None:
    assert match.all_of([]) is None
    assert match.any_of([no, None]) is None


@pytest.mark.parametrize(
    ("entries", "expected"), [([yes], True), ([no], False), ([no, yes], True), ([no, no], False)]
)
def test_one_entry_of_several_suffices(entries: list[Condition], expected: bool) -> None:
    combined = match.any_of(entries)
    assert combined is not None
    assert combined(head()) is expected


def test_no_entry_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="entry"):
        match.any_of([])


@pytest.mark.parametrize(
    ("header", "name", "expected"),
    [
        (b"user=ana", b"user", b"ana"),
        (b"a=b; user=ana; c=d", b"user", b"ana"),
        (b"a=b;user=ana", b"user", b"ana"),
        (b"xuser=eve; user=ana", b"user", b"ana"),
        (b"user=ana; user=eve", b"user", b"ana"),
        (b"user=a=b ; c=d", b"user", b"a=b"),
        (b"user=", b"user", b""),
        (b"user", b"user", None),
        (b"xuser=eve", b"user", None),
        (b"User=ana", b"user", None),
        (b"", b"user", None),
    ],
)
def test_the_value_of_a_cookie(header: bytes, name: bytes, expected: bytes | None) -> None:
    assert match.cookie_value(header, name) == expected


@given(st.lists(st.tuples(st.sampled_from([b"a", b"ab", b"b"]), st.sampled_from([b"", b"a", b"x=y"]))))
def test_the_first_cookie_of_a_name_counts(pairs: list[tuple[bytes, bytes]]) -> None:
    header = b"; ".join(b"%b=%b" % pair for pair in pairs)
    for name in (b"a", b"ab", b"b"):
        assert match.cookie_value(header, name) == dict(reversed(pairs)).get(name)

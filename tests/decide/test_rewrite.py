"""Rewriting: what stands in place of what, and what may never come out."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busmesh.decide.rewrite import MAX_TARGET, Rewrite, is_plain_path

paths = st.lists(
    st.sampled_from([b"/", b"a", b"b", b".", b"..", b"%2e", b"%2F", b";", b"\\", b"api", b"-"]), max_size=8
).map(lambda parts: b"/" + b"".join(parts))
queries = st.sampled_from([b"", b"?", b"?a=1", b"?a=/../&b=?"])


@pytest.mark.parametrize(
    ("prefix", "uri", "target", "expected"),
    [
        (b"/ratings", b"/v1/bookRatings", b"/ratings", b"/v1/bookRatings"),
        (b"/ratings", b"/v1/bookRatings", b"/ratings/7?x=1", b"/v1/bookRatings/7?x=1"),
        (b"/ratings", b"/v1", b"/ratings-old", b"/v1-old"),
        (b"/ratings/", b"/v1", b"/ratings/7", b"/v17"),
        (b"/ratings/", b"/v1/", b"/ratings/7", b"/v1/7"),
        (b"/ratings", b"/", b"/ratings/7", b"/7"),
        (b"/ratings", b"/", b"/ratings", b"/"),
        (b"/ratings", b"/", b"/ratings?", b"/?"),
        (b"/", b"/v1/", b"/orders/7", b"/v1/orders/7"),
        (b"/RATINGS", b"/v1", b"/ratings/7", b"/v1/7"),
        (None, b"/v1", b"/ratings/7?x=/ratings", b"/v1?x=/ratings"),
        (b"/", b"/v1/", b"*", b"*"),
        (b"/api", b"/", b"/api//evil.example", None),
        (b"/api", b"/static/", b"/api../secret", None),
        (b"/api/", b"/tenant-a/", b"/api/../tenant-b/x", None),
        (b"/api/", b"/tenant-a/", b"/api/%2e%2E/tenant-b/x", None),
        (b"/api/", b"/tenant-a/", b"/api/..%2ftenant-b/x", None),
        (b"/api/", b"/tenant-a/", b"/api/..;/tenant-b/x", None),
        (b"/api/", b"/tenant-a/", b"/api/..\\tenant-b", None),
        (b"/api/", b"/tenant-a/", b"/api/x/.", None),
        (b"/api/", b"/tenant-a/", b"/api/.well-known/a..b/...", b"/tenant-a/.well-known/a..b/..."),
        (b"/api/", b"/tenant-a/", b"/api/x?next=/../y", b"/tenant-a/x?next=/../y"),
        (None, b"/v1", b"/a/../b", b"/v1"),
    ],
)
def test_what_becomes_of_a_target(
    prefix: bytes | None, uri: bytes, target: bytes, expected: bytes | None
) -> None:
    assert Rewrite(uri=uri, prefix=prefix).target(target) == expected


def test_a_target_that_no_frame_carries_is_none() -> None:
    rewrite = Rewrite(uri=b"/" + b"b" * 100, prefix=b"/a")
    assert rewrite.target(b"/a" + b"c" * (MAX_TARGET - 101)) is not None
    assert rewrite.target(b"/a" + b"c" * (MAX_TARGET - 100)) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/new", b"/new?q"),
        (b"/a/../b", b"/a/../b?q"),
        (b"new", None),
        (b"", None),
        (b"//evil.example/x", None),
        (b"/x\r\nHost: evil", None),
        (b"/x y", None),
        (b"/x#y", None),
        (b"/x?y", None),
        (b"/x/../y", None),
        (None, None),
    ],
)
def test_what_a_substitution_may_make_of_a_path(path: bytes | None, expected: bytes | None) -> None:
    # The second one is the path as it came: what nothing was done to is the application's affair.
    assert Rewrite(substitution=lambda _: path).target(b"/a/../b?q") == expected


@given(paths, queries, st.integers(1, 12), st.sampled_from([b"/", b"/t", b"/t/", b"/t/u"]))
@example(b"/api../x", b"", 4, b"/t/")
def test_what_comes_out_stays_below_what_was_put_there(
    path: bytes, query: bytes, length: int, uri: bytes
) -> None:
    prefix = path[:length]
    made = Rewrite(uri=uri, prefix=prefix).target(path + query)
    rest = path[len(prefix) :]
    expected = uri + (rest[1:] if uri.endswith(b"/") and rest.startswith(b"/") else rest)
    if expected == path:
        assert made == path + query
    else:
        assert made == (None if leads_elsewhere(expected) else expected + query)


def leads_elsewhere(path: bytes) -> bool:
    """Whether a server that knows every spelling would look elsewhere than where the path begins."""
    plain = re.sub(rb"%2[fF]|\\", b"/", re.sub(rb"%2[eE]", b".", path))
    segments = [segment.split(b";")[0] for segment in plain.split(b"/")]
    return path.startswith(b"//") or b"." in segments or b".." in segments


@pytest.mark.parametrize("path", [b"/", b"/a/b", b"/a%20b", b"/\xc3\xa9"])
def test_paths(path: bytes) -> None:
    assert is_plain_path(path)


@pytest.mark.parametrize("path", [b"", b"a", b"*", b"/a b", b"/a\n", b"/..", b"/./a", b"/a?b", b"/\x7f"])
def test_other_bytes_are_no_path(path: bytes) -> None:
    assert not is_plain_path(path)


def test_the_authority_replaces_every_host_and_nothing_else() -> None:
    block = b"Host: a\r\nx-host: a\r\nHOST: b\r\n"
    rewrite = Rewrite(authority=b"orders.example:8080")
    assert rewrite.headers(block) == b"x-host: a\r\nHost: orders.example:8080\r\n"
    assert rewrite.target(b"/a/../b") == b"/a/../b"
    assert Rewrite(uri=b"/a").headers(block) == block


def test_a_path_is_rewritten_in_one_way() -> None:
    with pytest.raises(ValueError, match="one way"):
        Rewrite(uri=b"/a", substitution=lambda path: path)

from __future__ import annotations

import time

import pytest

from busmesh.policy import regex
from busmesh.policy.regex import (
    MAX_PROGRAM,
    MAX_REPLACEMENTS,
    MAX_STEPS,
    MAX_TEXT,
    RefusedPattern,
    full_match,
    longest_text,
    substitution,
)

#: Patterns and texts that cost a backtracking engine exponential or high polynomial time, and some that
#: cost a linear one much memory.
EVIL = [
    ("(a+)+$", "a", "b"),
    ("(a|a)*$", "a", "b"),
    ("(a|aa)+$", "a", "b"),
    ("(.*)*x", "a", ""),
    ("(a*)*b", "a", "c"),
    ("(x+x+)+y", "x", ""),
    ("([a-zA-Z]+)*$", "a", "1"),
    ("(.*a){20}", "a", "b"),
    ("^(([a-z])+.)+[A-Z]([a-z])+$", "a", ""),
    (".*.*.*.*=.*", "x", ""),
    ("(0|1)*1(0|1){12}2", "01", ""),
    ("(?:(?:a?){60})a{60}", "a", "b"),
    (".{0,200}x.{0,20}y", "x", ""),
    ("([a-z0-9]+[._-])*[a-z0-9]+@", "a.", ""),
    (r"(\w+\s?)+!", "ab ", ""),
    (r"\s*,\s*(\s*)*;", " ", ""),
    (".*a.{100}b.*Z", "abcab", ""),
    ("(.*a.{30}|.*b.{30}|.*c.{30})Z", "abcacb", ""),
    ("(a{1,10}){1,10}b", "a", ""),
    ("((ab)*c?)*d", "abab", "c"),
    (r"(?i)(Aa|aA)+!", "aA", ""),
]


@pytest.mark.parametrize(("pattern", "unit", "end"), EVIL)
def test_no_pattern_takes_long_on_the_longest_text_that_is_looked_at(
    pattern: str, unit: str, end: str
) -> None:
    try:
        test, longest = full_match(pattern), longest_text(pattern)
    except RefusedPattern:
        return
    text = ((unit * longest)[: longest - len(end)] + end).encode()
    began = time.process_time()
    test(text)
    assert time.process_time() - began < 0.25  # 5 ms are the aim; the rest is for a busy machine


def test_the_whole_value_must_match() -> None:
    test = full_match("v[0-9]+")
    assert test(b"v12")
    assert not test(b"v12x")
    assert not test(b"xv12")


def test_alternatives_do_not_let_a_prefix_pass() -> None:
    assert not full_match("a|ab")(b"abc")
    assert full_match("a|ab")(b"ab")


def test_values_are_bytes_whatever_they_mean() -> None:
    assert full_match("[^/]+")(b"\xff\x80")
    assert full_match(r"caf\xc3\xa9")("café".encode())


def test_a_text_too_long_to_be_looked_at_gives_the_answer_chosen_before() -> None:
    text = b"a" * (MAX_TEXT + 1)
    assert full_match("a+")(text[1:]) is True
    assert full_match("a+")(text) is False
    assert full_match("a+", too_long=True)(text) is True


def test_the_larger_a_pattern_the_shorter_the_texts_that_it_looks_at() -> None:
    small, large = "/orders/[0-9]+(/.*)?", "(?s).*a.{100}b?"
    assert longest_text(small) == MAX_TEXT
    longest = longest_text(large)
    assert MAX_STEPS // MAX_PROGRAM <= longest < MAX_TEXT
    assert full_match(large)(b"a" * longest) is True
    assert full_match(large)(b"a" * (longest + 1)) is False
    assert full_match(large, too_long=True)(b"a" * (longest + 1)) is True
    assert substitution(large, "x")(b"a" * longest) == b"x"
    assert substitution(large, "x")(b"a" * (longest + 1)) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)b",
        r"(a)\1",
        "(?<!a)b",
        "(",
        "[",
        "a{1001}",
        "a" * 1025,
        "a" * 400,
        "((a{30}){30}){30}",
        "é",
        "a**b(",
    ],
)
def test_what_cannot_be_bounded_is_refused(pattern: str) -> None:
    with pytest.raises(RefusedPattern) as caught:
        full_match(pattern)
    assert caught.value.code == "BM1208"


def test_without_the_engine_a_regex_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(regex, "import_module", missing)
    with pytest.raises(RefusedPattern) as caught:
        full_match("a")
    assert caught.value.code == "BM1215"
    assert "pip install google-re2" in caught.value.hint


#: Each match has looked at the whole rest of the text before it knows.
RESTLESS = [("(a.*b)|a", "a", ""), ("(.*a.{30}|.*b.{30})Z|a|b", "ab", ""), ("((?:a?){60}a{60}b)|a", "a", "")]


@pytest.mark.parametrize(("pattern", "unit", "end"), EVIL + RESTLESS)
def test_no_substitution_takes_long_either(pattern: str, unit: str, end: str) -> None:
    try:
        substitute, longest = substitution(pattern, r"\0\0"), longest_text(pattern)
    except RefusedPattern:
        return
    text = ((unit * longest)[: longest - len(end)] + end).encode()
    began = time.process_time()
    substitute(text)
    assert time.process_time() - began < 0.5  # 10 ms are the aim; the rest is for a busy machine


@pytest.mark.parametrize(
    ("pattern", "replacement", "path", "expected"),
    [
        # The two examples of Istio's reference, which forgets that the second group begins with a slash.
        (
            "^/service/([^/]+)(/.*)$",
            r"/customprefix/\2/\1",
            b"/service/update/v1/api",
            b"/customprefix//v1/api/update",
        ),
        ("(?i)/xxx/", "/yyy/", b"/aaa/XxX/bbb", b"/aaa/yyy/bbb"),
        ("a", "b", b"/a/a", b"/b/b"),
        ("^a", "b", b"aaa", b"baa"),
        ("x", "y", b"/a", b"/a"),
        ("(a)|b", r"<\1>", b"ab", b"<a><>"),
        ("a+", r"\0\0", b"/aab", b"/aaaab"),
        ("a", r"\\1", b"a", rb"\1"),
        ("a", "é", b"a", "é".encode()),
        ("$", "/", b"/a", b"/a/"),
        ("a", "", b"/a", b"/"),
        ("a*", "x", b"baac", b"xbxcx"),
    ],
)
def test_every_part_that_matches_is_replaced(
    pattern: str, replacement: str, path: bytes, expected: bytes
) -> None:
    assert substitution(pattern, replacement)(path) == expected


@pytest.mark.parametrize("replacement", [r"\2", r"\x", "a\\", r"\1" * 17])
def test_a_replacement_names_groups_that_are_there_and_few(replacement: str) -> None:
    with pytest.raises(RefusedPattern):
        substitution("(a)", replacement)


def test_what_is_too_long_to_be_looked_at_is_not_rewritten_by_half() -> None:
    substitute = substitution("a", "b")
    assert substitute(b"x" * MAX_TEXT) == b"x" * MAX_TEXT
    assert substitute(b"x" * (MAX_TEXT + 1)) is None
    assert substitute(b"a" * MAX_REPLACEMENTS) == b"b" * MAX_REPLACEMENTS
    assert substitute(b"a" * (MAX_REPLACEMENTS + 1)) is None


def test_matches_that_each_look_at_the_rest_add_up() -> None:
    substitute = substitution("a", "b")
    path = (b"a" + b"x" * 99) * 60
    assert substitute(path[:3000]) == path[:3000].replace(b"a", b"b")
    assert substitute(path) is None

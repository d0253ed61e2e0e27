"""Ways around a rule about a path, and applications that would take them."""

from __future__ import annotations

import itertools
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from random import Random
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.authz.paths import (
    DECODINGS,
    MAX_FOREIGN_READINGS,
    MAX_PATH,
    MAX_READINGS,
    MAX_UNUSUAL,
    compatible,
    is_plain,
    merged,
    readings,
    resolved,
    slashed,
    without_ends,
    without_parameters,
    without_query,
)

TARGET = b"/admin/secret"

#: Each is /admin/secret to some application, or to nobody who is honest. Families: slashes; dot segments;
#: both encoded; letters encoded; encoded twice; parameters; ends of segments; query and fragment; control
#: characters; UTF-8 longer than it need be; Unicode's lookalikes; Windows; mixtures.
VARIANTS = r"""
/admin/secret //admin/secret ///admin/secret /admin//secret //admin//secret ////admin////secret
/admin///secret \admin\secret /admin\secret /\admin/secret \/admin/secret /admin\/secret /admin/\secret
\\admin\\secret /\/admin\/secret //admin\secret /admin\\secret /\\admin//secret

/./admin/secret /admin/./secret /././admin/secret /admin/././secret /x/../admin/secret /admin/x/../secret
/x/y/../../admin/secret /../admin/secret /../../admin/secret /admin/../admin/secret /./x/../admin/./secret
/x/./../admin/secret /x/.././admin/secret //x/../admin/secret /x//../admin/secret /x/..//admin/secret
/x\..\admin/secret /x\../admin\secret /.\admin/secret /admin\.\secret /admin/x\..\secret
/./../admin/secret /x/..\admin/secret /admin/secret/x/.. /admin/secret/./x/.. /admin/x/y/../../secret
/public/../admin/secret /static/css/../../admin/secret /public/./../admin/secret /public//..//admin/secret
/a/b/c/../../../admin/secret

/%2e/admin/secret /%2E/admin/secret /admin/%2e/secret /x/%2e%2e/admin/secret /x/%2E%2E/admin/secret
/x/%2e./admin/secret /x/.%2e/admin/secret /x/.%2E/admin/secret /%2e%2e/admin/secret /admin/x/%2e%2e/secret
/admin%2fsecret /admin%2Fsecret /%2fadmin/secret /%2Fadmin%2Fsecret /admin%2f%2fsecret /admin/%2fsecret
/admin%5csecret /admin%5Csecret /%5cadmin/secret /%5Cadmin%5Csecret /x%2f..%2fadmin%2fsecret
/x%2f%2e%2e%2fadmin/secret /x/..%2fadmin/secret /x%2f../admin/secret /x/%2e%2e%2fadmin%2fsecret
/x%5c..%5cadmin%5csecret /x%5c%2e%2e%5cadmin/secret /x/..%5cadmin/secret /.%2fadmin/secret
/%2e%2fadmin/secret /%2f%2fadmin/secret /admin%2f.%2fsecret /admin%2f%2e%2fsecret
/x%2F%2E%2E%2Fadmin%2Fsecret /public%2f..%2fadmin%2fsecret /public/%2e%2e/admin%2fsecret
/public/.%2e%2fadmin/secret

/%61dmin/secret /%61%64%6d%69%6e/secret /adm%69n/secret /admin/%73ecret /admin/secre%74 /%61dmin/%73ecret
/a%64min/secret /ad%6Din/secret /ad%6din/secret /admin/%73%65%63%72%65%74
/%61%64%6D%69%6E%2f%73%65%63%72%65%74 //%61dmin/secret /./%61dmin/secret /x/../%61dmin/secret
/%61dmin%2f%2e%2f%73ecret

/%2561dmin/secret /admin%252fsecret /admin%252Fsecret /admin%255csecret /x/%252e%252e/admin/secret
/%252e/admin/secret /x%252f..%252fadmin%252fsecret /x%252f%252e%252e%252fadmin/secret /%252fadmin/secret
/admin/%2573ecret /x/.%252e/admin/secret /x/%252e./admin/secret /%25%36%31dmin/secret
/admin%25%32%66secret /%%36%31dmin/secret /admin%%32%66secret /x/%%32%65%%32%65/admin/secret
/%2561%2564min/secret /x/..%252fadmin/secret /x/%2e%252e/admin/secret /admin%25252fsecret
/%252561dmin/secret /x/%25252e./admin/secret

/admin;/secret /admin/secret; /admin;x=1/secret /admin/secret;x=1 /admin;a;b;c/secret /;/admin/secret
/;x/admin/secret /x/..;/admin/secret /x/..;a=b/admin/secret /x/.;/../admin/secret /./;/admin/secret
/admin;jsessionid=1/secret;v=2 /admin%3b/secret /admin%3Bx/secret /x/..%3b/admin/secret /admin/;/secret
/admin/;x=y/secret /x;/../admin/secret /x/%2e%2e;/admin/secret /..;/admin/secret /..;/..;/admin/secret
/public/..;/admin/secret /public;/../admin;/secret /admin/.;/secret /admin;%2fsecret/secret
/.;/admin/secret /admin%253bx/secret /x/..%253b/admin/secret

/admin/secret. /admin./secret /admin/secret.. /admin/secret%2e /admin%20/secret /admin/secret%20
/admin/secret%20%20 /admin/secret%20. /admin/secret.%20 /admin..../secret /x/..%20/admin/secret
/admin%2e/secret /admin%20%20/secret. /x/%2e%2e%20/admin/secret /admin/secret%2520 /admin/.%20/secret

/admin/secret? /admin/secret?x=1 /admin/secret?/../public /admin/secret?/..;/public /admin/secret?%2f..%2f
/admin/secret# /admin/secret#x /admin/secret%23 /admin/secret%23x /admin/secret%3f /admin/secret%3fx=1
/admin/secret%3F/../../public /admin/secret#/../../public /admin/secret%23/../../public /admin/secret?#
/admin/secret;?x /admin/secret%253fx /admin/secret%2523x

/admin/secret%00 /admin%00/secret /%00admin/secret /admin/secret%00.html /admin/secret%00/../public
/admin/secret%0a /admin/secret%0d%0a /admin%0a/secret /admin/secret%09 /admin%09/secret /admin/%08secret
/admin/secret%7f /admin/secret%1f /%0d%0aadmin/secret /admin/secret%2500 /admin%250a/secret
/admin/secret%0b

/admin%c0%afsecret /admin%c1%9csecret /%c0%aeadmin/secret /x/%c0%ae%c0%ae/admin/secret /%c1%a1dmin/secret
/admin%e0%80%afsecret /admin%f0%80%80%afsecret /admin%f8%80%80%80%afsecret /admin%fc%80%80%80%80%afsecret
/x/%c0%ae./admin/secret /x/%e0%80%ae%e0%80%ae/admin/secret /%c1%81dmin/secret /admin%25c0%25afsecret
/admin%c0%2fsecret /admin%C0%AFsecret /x/..%c0%afadmin/secret /x/..%c1%9cadmin/secret

/admin%ef%bc%8fsecret /x/%ef%bc%8e%ef%bc%8e/admin/secret /%ef%bd%81dmin/secret /admin%ef%bc%bcsecret
/admin%e2%81%84secret /admin%e2%88%95secret /x/%e2%80%a5/admin/secret /x/%e2%80%a4%e2%80%a4/admin/secret
/%e2%93%90dmin/secret /admin/%c5%bfecret /admin%ef%bc%9bx/secret /admin/secret%ef%bc%9f
/admin/secret%ef%bc%83 /admin%25ef%25bc%258fsecret /%f0%9d%90%9edmin/../admin/secret

/admin%u002fsecret /%u0061dmin/secret /x/%u002e%u002e/admin/secret /admin%U002fsecret /admin%u2215secret
/admin%25u002fsecret /admin%u005csecret /admin%uff0fsecret

/x/..%2f..%5cadmin%2f.%2f%73ecret;v=1. //x;/..//%61dmin%2f;y/secret /%2e;/..;/admin;%2f;/secret%20.
/x%5c..;%2f%252fadmin//secret /./x/%2e%2e;a/.//admin\.;b\secret? /a/%2e%2e/../admin%2fsecret
/x/y%2f..%2f../admin%2fsecret /admin/x;/..;/secret. /x/%252e%252e;/admin%20/secret
""".split()

#: What an application does to a path, step by step. Written apart from the code under test.
Step = Callable[[bytes], bytes]


def collapse(path: bytes) -> bytes:
    return re.sub(rb"/+", b"/", path)


def normpath(path: bytes) -> bytes:
    """RFC 3986's algorithm by repeated replacement."""
    path = re.sub(rb"/\.(?=/|$)", b"", path) or b"/"
    path = path + b"/" if path.endswith(b"/..") else path
    while True:
        shorter = re.sub(rb"^(?:/\.\.(?=/|$))+", b"", path)
        shorter = re.sub(rb"/(?!\.\./)[^/]*/\.\.(?=/|$)", b"", shorter, count=1)
        if shorter == path:
            return path or b"/"
        path = shorter


def kompat(path: bytes) -> bytes:
    try:
        return unicodedata.normalize("NFKC", path.decode().translate({0x2044: "/", 0x2215: "/"})).encode()
    except UnicodeDecodeError:
        return path


STEPS: dict[str, Step] = {
    "decode": unquote_to_bytes,
    "backslash": lambda path: path.replace(b"\\", b"/"),
    "merge": collapse,
    "resolve": normpath,
    "posix": lambda path: posixpath.normpath(collapse(path)),
    "parameters": lambda path: re.sub(rb";[^/]*", b"", path),
    "blanks": lambda path: re.sub(rb"(?<=[^/. ])[. ]+(?=/|$)", b"", re.sub(rb"(?<=\.) +(?=/|$)", b"", path)),
    "fragment": lambda path: re.split(rb"[?#]", path)[0],
    "compatible": kompat,
}


def through(path: bytes, steps: Sequence[str]) -> bytes:
    for step in steps:
        path = STEPS[step](path)
    return path


def reach(path: bytes) -> set[bytes]:
    """Everything that a few hundred applications make of a path."""
    rng = Random(1)
    found = {path}
    for _ in range(400):
        steps = [*STEPS, "decode", "resolve", "merge"]
        rng.shuffle(steps)
        found.add(through(path, steps[: rng.randrange(len(steps) + 1)]))
    return found


def denies(path: bytes, test: Callable[[bytes], bool]) -> bool:
    """As an engine asks a policy that denies: of no path, or of any reading."""
    several = readings(path)
    return several is None or any(map(test, several))


def test_there_are_two_hundred_of_them_and_all_differ() -> None:
    assert len(VARIANTS) >= 200
    assert len(set(VARIANTS)) == len(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_spelling_leads_around_a_rule(variant: str) -> None:
    path = variant.encode().partition(b"?")[0]
    for test in (
        lambda text: text in (TARGET, TARGET + b"/"),
        lambda text: text.startswith(b"/admin/"),
        lambda text: text.startswith(b"/admin"),
        lambda text: text.endswith((b"/secret", b"/secret/")),
    ):
        assert denies(path, test), readings(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_spelling_is_one_that_some_application_falls_for_or_no_path(variant: str) -> None:
    path = variant.encode().partition(b"?")[0]
    assert readings(path) is None or TARGET in {found.rstrip(b"/") for found in reach(path)}


PIECES = st.sampled_from(
    r"/ // \ . .. ; ;x % %2f %2e %2E %5c %3b %252f %252e %25 %61 %20 a x admin secret %ef%bc%8f # %3f".split()
)


@given(
    st.lists(PIECES, max_size=12).map(lambda pieces: ("/" + "".join(pieces)).encode()),
    st.permutations([*STEPS, "resolve", "merge"]),
    st.integers(0, 11),
    st.integers(0, 11),
)
def test_whatever_an_application_does_is_among_the_readings(
    path: bytes, order: list[str], second: int, length: int
) -> None:
    steps = order[:length]
    steps.insert(second, "decode")
    several = readings(path)
    made = through(path, steps)
    if several is not None and "posix" not in steps:
        assert made.rstrip(b"/") in {reading.rstrip(b"/") for reading in (path, *several)}, (steps, made)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", [b"/"]),
        (b"*", [b"*"]),
        (b"/orders/1", [b"/orders/1"]),
        (b"/orders/", [b"/orders/"]),
        (b"/a.b/..c/d", [b"/a.b/..c/d"]),
        (b"/.well-known/x", [b"/.well-known/x"]),
        (b"/v1/items:batch", [b"/v1/items:batch"]),
        (b"/v1/items%3Abatch", [b"/v1/items:batch"]),
        (b"/a%20b", [b"/a b"]),
        (b"/caf%C3%A9", ["/café".encode()]),
        (b"/caf\xc3\xa9", ["/café".encode()]),
        (b"/caf%e9", [b"/caf\xe9"]),
        (b"/caf%e9%20noir/.x", [b"/caf\xe9 noir/.x"]),
        (b"/caf%e9;v=1", None),
        (b"/caf%e9%20/x", None),
        (b"/caf%e9/../x", None),
        (b"/%\n2561", None),
        (b"/100%", None),
        (b"/%zz", None),
        (b"/a%2Fb", [b"/a%2Fb", b"/a/b"]),
        (b"/100%25", [b"/100%25", b"/100%"]),
        (b"/a;v=1/b", [b"/a;v=1/b", b"/a/b"]),
        (b"/a/../b", [b"/a/../b", b"/b"]),
        (b"/a/..", [b"/a/..", b"/"]),
        (b"/a/.", [b"/a/.", b"/a/"]),
        (b"/../..", [b"/../..", b"/"]),
        (b"/%252561", None),
        (b"/%00", None),
        (b"/%c0%af", None),
        (b"/a%0D%0Ab", None),
        (b"/\x7f", None),
        (b"/" + b"%20" * 1000, None),
    ],
)
def test_readings(path: bytes, expected: list[bytes] | None) -> None:
    found = readings(path)
    assert (found if found is None else sorted(found)) == (expected and sorted(expected))


#: What the code under test has in tables of bytes: no UTF-8, control characters, Windows' own.
MALFORMED = re.compile(
    rb"[\x00-\x1f\x7f\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|\xf8[\x80-\x87]|\xfc[\x80-\x83]"
    rb"|%[uU][0-9a-fA-F]{4}"
)
SIGNS = re.compile(rb"%(?=25|2[fF]|5[cC]|3[bBfF]|2[eE]|23)")


def all_readings(path: bytes) -> set[bytes] | None:
    """Every reading, without bounds and without haste."""
    found: set[bytes] = set()
    level, decoded = {unquote_to_bytes(SIGNS.sub(b"%25", path))}, set[bytes]()
    for _ in range(DECODINGS + 1):
        grown: set[bytes] = set()
        while grown != level:
            grown = set(level)
            for step in (
                slashed, merged, resolved, without_query, without_parameters, without_ends, compatible
            ):  # fmt: skip
                level |= set(map(step, level))
        found |= level
        decoded = {new for text in level if (new := unquote_to_bytes(text)) != text}
        level = decoded - found
    return None if decoded or any(map(MALFORMED.search, found)) else found


def limit_for(every: set[bytes]) -> int:
    """How many readings there may be: fewer for other letters than ASCII's, one outside of UTF-8."""
    if any(text.decode(errors="ignore").encode() != text for text in every):
        return 1
    return MAX_READINGS if all(map(bytes.isascii, every)) else MAX_FOREIGN_READINGS


@given(
    st.one_of(
        st.lists(PIECES, max_size=8).map(lambda pieces: "".join(pieces).encode()),
        st.lists(
            st.sampled_from(
                "/ % %% %2 %zz = == %3D %3d _ + %e0 %9f %a0 %f0 %80 %8f %90 %f8 %88 %fc %84 %c0 %c3 %a9 %0a "
                "%u0041 %25u %EF%BC%8F %3F %u %ed%a0%80 a E".split()
            ),
            max_size=6,
        ).map(lambda pieces: ("/" + "".join(pieces)).encode()),
        st.binary(max_size=8).map(lambda text: b"/" + text.replace(b"?", b"")),
    )
)
def test_readings_are_all_that_there_are_or_the_path_is_refused(path: bytes) -> None:
    several = readings(path)
    every = all_readings(path)
    if several is not None:
        assert set(several) == every
    elif every is not None and not re.search(rb"%(?![0-9a-fA-F]{2})", path):
        mixed = any(b"%" in text and not text.isascii() for text in every)  # in no one code page
        assert len(every) > limit_for(every) or (mixed and limit_for(every) == 1)


@pytest.mark.parametrize("path", [b"\\\\a\\\\b", b"\\.\\a", b"a\\..\\b", b"\\a.\\b;c\\d"])
def test_a_path_without_a_slash_is_read_as_fully_as_others(path: bytes) -> None:
    every = all_readings(path)
    assert every is not None
    assert set(readings(path) or ()) == every


@pytest.mark.parametrize(
    "path",
    [
        b"/api/v4/projects/group%2Fproject/repository/files/src%2Fmain.py/raw",
        b"/api/v4/projects/a%2Fb%2Fc/packages/npm/@scope%2fname/-/@scope/name-1.0.0.tgz",
        b"/files/My%20Documents/a%20(1).txt",
        b"/shop;jsessionid=1A2B3C/cart;v=2/items",
        b"/redirect/https%3A%2F%2Fexample.org%2Fa%2Fb%3Fc%3Dd%26e%3Df%23g",
        b"/redirect/https%253A%252F%252Fexample.org%252Fa",
        b"/proxy/https://example.org//a/b",
        b"/bucket/2026/11/26/..%2Fnotes.txt",
        b"/a/./b/../c",
        b"//double//slashes//everywhere",
        b"/wiki/Caf%C3%A9_(Paris)#",
        ("/" + "%E6%97%A5" * 200).encode(),
        "/wiki/你好\uff0c世界\uff01\uff08一\uff09".encode(),
        ("/" + "%EC%95%88%EB%85%95" * 60).encode(),
        b"/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q%2Fr;s",
        b"/matrix;a=1;b=2/rows;c=3//cells;d=4",
    ],
)
def test_paths_of_real_applications_are_compared_and_not_refused(path: bytes) -> None:
    assert readings(path) is not None


def test_an_honest_path_may_be_as_long_as_a_request_line_and_no_unusual_one_is_expensive() -> None:
    assert readings(b"/" + b"a" * (MAX_PATH - 1)) is not None
    assert readings(b"/" + b"a" * MAX_PATH) is None
    pieces = [b"/..", b"/.", b"//", b";a", b"%2f", b"%252e", b"\\", b".", b"%20", b"%ef%bc%8f", b"%ef%b7%ba"]
    for some in itertools.product(pieces, repeat=2):
        path = (b"/" + b"".join(some) * MAX_UNUSUAL)[:MAX_UNUSUAL]
        found = readings(path)
        assert found is None or sum(map(len, found)) <= 2 * MAX_UNUSUAL
    assert readings(b"/" + b";" * MAX_UNUSUAL) is None


@pytest.mark.parametrize("text", [b"/", b"/a", b"/a/", b"/a b/c", b"/a.b", b"/.a", b"/a/...b", "/é".encode()])
def test_a_plain_path_has_one_reading(text: bytes) -> None:
    assert is_plain(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"a", b"//", b"/a//b", b"/./a", b"/..", b"/a;", b"/a\\", b"/a?", b"/a#", b"/a.", b"/a ", b"/\n"],
)
def test_other_paths_have_more(text: bytes) -> None:
    assert not is_plain(text)

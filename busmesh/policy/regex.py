"""Regular expressions whose cost is bounded, whatever an operator writes and a caller sends.

Istio's regular expressions are RE2's, so RE2 runs them: same meaning, time linear in the text. Python's own
engine needs half a second for ``(a+)+$`` on 24 letters. RE2 is imported when the first pattern is, because
its 2.5 MiB are wasted on an agent without one.

RE2 is linear also in the size of the compiled pattern: where it cannot keep its states, as for
``.*a.{100}b``, every instruction is tried at every byte. So the product of both is bounded, `MAX_STEPS`,
and how long a text a pattern looks at follows from its size (:func:`longest_text`). Envoy bounds the pattern
alone, and Istio lifts that bound.

What is bounded is one pattern on one text. A request that is held against several pays for each of them.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from busmesh.decide.match import Test
from busmesh.decide.rewrite import Substitution
from busmesh.errors import BusmeshError

MAX_PATTERN = 1024
#: Instructions of the compiled pattern, about one for each letter. Envoy's default is 100, Istio's 32,768.
MAX_PROGRAM = 256
#: A longer value is never looked at, nor one of fewer bytes by a large pattern; see :func:`longest_text`.
MAX_TEXT = 8192
#: Instructions times bytes that one pattern may take for one text: 1 ms of processor.
MAX_STEPS = 3 << 17
#: Bytes that RE2 may take for one pattern. When its state cache is full it goes on without, and has built the
#: cache for nothing: with 1 MiB the worst case takes three times as long, and below 64 KiB large patterns
#: that are harmless have no cache at all.
MAX_MEMORY = 1 << 17
#: Each match is a search of its own, which may look at the whole rest of the text.
MAX_REPLACEMENTS = 64
#: Groups in one replacement; together with the bounds above they keep a new path below 256 KiB.
MAX_REFERENCES = 16


class RefusedPattern(BusmeshError):
    """A regular expression that is malformed, or whose cost would have no bound."""


def full_match(pattern: str, *, too_long: bool = False) -> Test:
    """Return a test that a whole value matches ``pattern``, byte by byte.

    Args:
        pattern: RE2 syntax, ASCII.
        too_long: what the test says of a value that is longer than :func:`longest_text`. Choose the answer
            that keeps the rule from applying: no rule should hold on the strength of a text that nobody
            looked at.

    Raises:
        RefusedPattern: malformed, too large, or with constructs that cannot be matched in linear time
            (look-around, back references).
    """
    compiled = _compiled(pattern, capture=False)
    matched = compiled.fullmatch
    longest = _longest_text(compiled)

    def test(text: bytes) -> bool:
        if len(text) > longest:
            return too_long
        return matched(text) is not None

    return test


def longest_text(pattern: str) -> int:
    """Return how many bytes a text may have for a pattern to look at it: 8192, and fewer if it is large.

    Raises:
        RefusedPattern: as :func:`full_match`.
    """
    return _longest_text(_compiled(pattern, capture=False))


def _longest_text(compiled: Any) -> int:
    return min(MAX_TEXT, MAX_STEPS // int(compiled.programsize))


def substitution(pattern: str, replacement: str) -> Substitution:
    r"""Return a function that replaces every part of a path that matches ``pattern``, as Envoy does.

    It gives None for a path that is longer than :func:`longest_text`, or has more than 64 matches, or would
    take more than `MAX_STEPS`: what nobody may look at whole is not rewritten by half.

    Args:
        pattern: RE2 syntax, ASCII.
        replacement: ``\0`` is what matched, ``\1`` to ``\9`` are its groups, ``\\`` is a backslash.

    Raises:
        RefusedPattern: as :func:`full_match`, or a replacement that names a group which there is not.
    """
    compiled = _compiled(pattern, capture=True)
    pieces = _pieces(replacement, compiled.groups)
    found = compiled.finditer
    longest = _longest_text(compiled)
    allowed = MAX_STEPS // int(compiled.programsize)

    def substitute(path: bytes) -> bytes | None:
        if len(path) > longest:
            return None
        parts: list[bytes] = []
        end, left = 0, allowed - len(path)
        for number, match in enumerate(found(path)):
            left -= len(path) - match.end()
            if number == MAX_REPLACEMENTS or left < 0:
                return None
            if (
                number and match.end() == end
            ):  # empty, and at the end of the last one: that is no further match
                continue
            parts.append(path[end : match.start()])
            parts += [piece if isinstance(piece, bytes) else match[piece] or b"" for piece in pieces]
            end = match.end()
        return b"".join(parts) + path[end:]

    return substitute


def _pieces(replacement: str, groups: int) -> list[bytes | int]:
    """Take a replacement apart into literal bytes and numbers of groups."""
    pieces: list[bytes | int] = []
    for literal, escaped in re.findall(r"([^\\]+)|\\(.?)", replacement, re.DOTALL):
        if literal or escaped == "\\":
            pieces.append((literal or escaped).encode())
        elif escaped.isdecimal() and escaped.isascii() and int(escaped) <= groups:
            pieces.append(int(escaped))
        else:
            raise RefusedPattern(
                f"the replacement holds \\{escaped}, and the regex has {groups} groups",
                code="BM1208",
                hint=r"write \0 for what matched, \1 for the first group, \\ for a backslash",
            )
    if sum(isinstance(piece, int) for piece in pieces) > MAX_REFERENCES:
        raise RefusedPattern(f"the replacement holds more than {MAX_REFERENCES} groups", code="BM1208")
    return pieces


def _compiled(pattern: str, *, capture: bool) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise RefusedPattern(f"the regex is longer than {MAX_PATTERN} characters", code="BM1208")
    if not pattern.isascii():
        raise RefusedPattern(
            "the regex holds characters outside of ASCII",
            code="BM1208",
            hint=r"values are matched byte by byte: write them as \xHH",
        )
    try:
        re2: Any = import_module("re2")
    except ImportError:
        raise RefusedPattern(
            "regexes need the package google-re2",
            code="BM1215",
            hint="pip install google-re2, or use exact or prefix",
        ) from None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = MAX_MEMORY
    options.never_capture = not capture
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "malformed"
        raise RefusedPattern(f"not a regex of RE2: {reason}", code="BM1208") from None
    if compiled.programsize > MAX_PROGRAM:
        raise RefusedPattern(
            f"the regex compiles to {compiled.programsize} instructions, more than {MAX_PROGRAM}",
            code="BM1208",
            hint="shorten its literals and counted repetitions, or use prefix",
        )
    return compiled

"""Every way in which some application may read a path.

A rule about ``/admin`` is only worth something if ``//admin``, ``/x/../admin``, ``/%61dmin`` and
``/admin;a=b`` are about ``/admin`` as well, and applications do not agree on which of them are: some decode
twice, some resolve dots before they decode, some cut at ``;``. Istio chooses one normalisation per mesh and
leaves it to its operator to know the application (CVE-2021-31920 was the difference). Here a rule is asked
about each reading, and a request is let through only if it would be by all of them.

What no honest client sends is no path at all: control characters, UTF-8 that is longer than it need be,
Windows' ``%uXXXX``, text that is encoded three times, and paths that are too long, or can be read in too many
ways, to be looked at in 50 us.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

#: Bytes of a path. nginx and Apache take 8 KiB for the whole request line.
MAX_PATH = 8192
#: Bytes of a path that needs more than one look. A Chinese title of 200 letters has 1,800, and 600 once it is
#: decoded. Also of all its readings together, in which dear bytes count more: twice in a text that is not
#: ASCII, five times in one that is not in Unicode's form KC, and a "%" 25 times.
MAX_UNUSUAL = 2048
#: Readings of one path. Those of real applications have six; one more costs 5 us.
MAX_READINGS = 8
#: The same for a path with letters outside of ASCII.
MAX_FOREIGN_READINGS = 5
#: U+FDFA is 33 bytes in form KC, by far the most.
_LONGEST = "\ufdfa".encode()
#: Bytes of a path that is not UTF-8.
MAX_LEGACY = 512
#: Segments of all readings of one path together: some steps look at each.
MAX_SEGMENTS = 96
#: Signs ``%`` in one reading, which is decoded but for those that mean something.
MAX_ESCAPES = 16
#: How many times an application, and whatever stands before it, may decode.
DECODINGS = 2

_PRINTABLE = bytes(range(0x20, 0x7F))
_HIGH = bytes(range(0x80, 0x100))
#: Letters for what is not ASCII, and for blanks dots, which are unusual at the same places.
_AS_LETTERS = bytes(range(0x80)).replace(b" ", b".") + b"x" * 0x80
#: A path of these can be read in one way, but for double slashes and for dots at the end of a segment.
_USUAL = _PRINTABLE.translate(None, b" %\\;#")
_SLASH, _BACKSLASH, _DOT, _BLANK, _QUESTION, _HASH, _SEMICOLON, _PERCENT = b"/\\. ?#;%"
_WINDOWS = re.compile(rb"%[uU][0-9a-fA-F]{4}")
#: What means something in a path, percent-encoded, by how its escape begins; the sign % first.
_SIGNS = {b"%2": b"25 2F 2f 2E 2e 23".split(), b"%3": b"3B 3b 3F 3f".split(), b"%5": b"5C 5c".split()}
_ESCAPE = re.compile(rb"%[0-9a-fA-F]{2}")
_AS_QUOTED_PRINTABLE = bytes.maketrans(b"%", b"=")
_PARAMETERS = re.compile(rb";[^/]*")
#: What some file systems and code pages take for a slash, and Unicode's compatibility forms leave alone.
_LOOKALIKES = [(letter.encode(), b"/") for letter in "\u2044\u2215\u29f8"]
_LOOKALIKES += [(letter.encode(), b"\\") for letter in "\u2216\u29f5"]


Step = Callable[[bytes], bytes]


def _kinds_of_bytes() -> bytes:
    kinds = bytearray(b"." * 256)
    for first, last, kind in ((0x80, 0x83, b"a"), (0x84, 0x87, b"b"), (0x88, 0x8F, b"c"), (0x90, 0x9F, b"d")):
        kinds[first : last + 1] = kind * (last + 1 - first)
    for lead, shown in zip(b"\xc0\xc1\xe0\xf0\xf8\xfc", b"!!EFGH", strict=True):
        kinds[lead] = shown
    return bytes(kinds)


#: Kinds of bytes, and what of them stands in no UTF-8 (RFC 3629 section 3): C0 and C1, and the lowest of what
#: may follow E0, F0, F8 and FC. A regex would take 60 ns for each byte.
_KINDS = _kinds_of_bytes()
_OVERLONG = b"! Ea Eb Ec Ed Fa Fb Fc Ga Gb Ha".split()


def readings(path: bytes) -> tuple[bytes, ...] | None:
    """Return every reading of ``path``, as it came first; None if it is malformed.

    "As it came" is without the percent-encoding of what means nothing in a path: ``%61`` is ``a`` to
    everybody (RFC 3986 section 6.2.2.2), and ``%3A`` is ``:``. From there on it is every path that some
    order of the `STEPS` leads to, with two decodings at most among them.
    """
    if len(path) <= MAX_PATH and _is_usual(path):
        return (path,)
    if len(path) > MAX_UNUSUAL or (first := _first_reading(path)) is None:
        return None
    reader = _Reader()
    roots = [first]
    for _ in range(DECODINGS + 1):
        decoded: list[bytes] = []
        for root in roots:
            if _is_malformed(root) or (more := reader.read(root)) is None:
                return None
            decoded += more
        roots = decoded
    return None if roots else tuple(reader.found)


class _Reader:
    """Finds the readings of one path, as long as there are not too many."""

    __slots__ = ("_effort", "_segments", "found")

    def __init__(self) -> None:
        self.found: dict[bytes, None] = {}
        self._effort = self._segments = 0

    def read(self, root: bytes) -> list[bytes] | None:
        """Find what the steps make of ``root``; return all of that decoded, None if it is too much."""
        is_ascii, found = root.isascii(), self.found
        steps = _steps_for(root) if is_ascii else _ASCII_STEPS
        most = MAX_READINGS if is_ascii else MAX_FOREIGN_READINGS
        decoded: list[bytes] = []
        waiting = [root]
        while waiting:
            text = waiting.pop()
            if text in found:
                continue
            self._effort += len(text)
            self._segments += text.count(b"/")
            if self._is_too_much() or len(found) >= most:
                return None
            found[text] = None
            waiting += [new for step in steps if (new := step(text)) is not text]
            if not is_ascii and (new := self._compatible(text)) != text:
                if _is_malformed(new):
                    return None
                waiting.append(new)
            if _PERCENT in text:
                self._effort += 24 * text.count(b"%")
                if (new := _decoded(text)) != text:
                    decoded.append(new)
        return None if self._is_too_much() else decoded

    def _compatible(self, text: bytes) -> bytes:
        new = compatible(text)
        self._effort += len(text) if new == text else 4 * len(text) + 30 * text.count(_LONGEST)
        return new

    def _is_too_much(self) -> bool:
        return self._effort > MAX_UNUSUAL or self._segments > MAX_SEGMENTS


def _first_reading(path: bytes) -> bytes | None:
    """Return a path as it came; None if a ``%`` begins no escape, which nginx and Go refuse as well."""
    if b"\n" in path or b"\r" in path:
        return None
    return _decoded_if_sound(_with_signs_kept(path)) if _PERCENT in path else path


def _steps_for(root: bytes) -> Sequence[Step]:
    """Return the steps that change something in what can become of ``root``, which is ASCII.

    For none of them brings in a sign, other than slashes for backslashes, or puts together what was apart.
    """
    return [step for step, one, other in _STEPS_BY_SIGNS if one in root or other in root]


def is_plain(text: bytes) -> bool:
    """Whether a decoded path is read in one way only, but for letters outside of ASCII."""
    return text[:1] == b"/" and all(step(text) == text for step in _ASCII_STEPS) and not _is_malformed(text)


def _is_usual(path: bytes) -> bool:
    return (
        not path.translate(None, _USUAL)
        and b"//" not in path
        and b"./" not in path
        and not path.endswith(b".")
    )


def _is_malformed(text: bytes) -> bool:
    if unusual := text.translate(None, _PRINTABLE):
        if unusual.translate(None, _HIGH):
            return True
        if not _is_utf_8(text):
            # An older code page: /caf%e9 is taken, but nothing that can be read in two ways.
            kinds = text.translate(_KINDS)
            several_ways = len(text) > MAX_LEGACY or not _is_usual(text.translate(_AS_LETTERS))
            return several_ways or any(pair in kinds for pair in _OVERLONG)
    return _PERCENT in text and (text.count(b"%") > MAX_ESCAPES or _WINDOWS.search(text) is not None)


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_signs_kept(path: bytes) -> bytes:
    """Return a path that is, decoded, one in which only what means something is percent-encoded."""
    for beginning, codes in _SIGNS.items():
        if beginning in path:
            for code in codes:
                path = path.replace(b"%" + code, b"%25" + code)
    return path


def _decoded_if_sound(text: bytes) -> bytes | None:
    """Decode percent-encoding, as C does quoted-printable, which has ``=`` for ``%``.

    Python's own way takes 60 us for a title of 200 Chinese letters. None if a ``%`` begins no escape: then
    the result is longer than it should be. There must be no ends of lines, which quoted-printable drops.
    """
    quoted = text.replace(b"=", b"%3D")
    decoded = a2b_qp(quoted.translate(_AS_QUOTED_PRINTABLE))
    return decoded if len(decoded) == len(quoted) - 2 * quoted.count(b"%") else None


def _decoded(text: bytes) -> bytes:
    """Decode what is percent-encoded in a text with few signs ``%``; those that begin no escape stay."""
    sound = _decoded_if_sound(text)
    if sound is not None:
        return sound
    return text if _ESCAPE.search(text) is None else unquote_to_bytes(text)


def slashed(text: bytes) -> bytes:
    """Return a path with backslashes as slashes, as browsers and Windows read it."""
    return text.replace(b"\\", b"/") if _BACKSLASH in text else text


def merged(text: bytes) -> bytes:
    """Return a path without empty segments, as nginx and Go read it."""
    while b"//" in text:
        text = text.replace(b"//", b"/")
    return text


def resolved(text: bytes) -> bytes:
    """Return a path without its dot segments (RFC 3986 section 5.2.4)."""
    if b"/." not in text:
        return text
    kept: list[bytes] = []
    segments = text.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def without_query(text: bytes) -> bytes:
    """Return a path up to the first ``?`` or ``#``, which a second parser cuts off once it is decoded."""
    if _QUESTION not in text and _HASH not in text:
        return text
    return text.partition(b"?")[0].partition(b"#")[0]


def without_parameters(text: bytes) -> bytes:
    """Return a path whose segments end before a ``;``, as servlets read it."""
    return _PARAMETERS.sub(b"", text) if b";" in text else text


def without_ends(text: bytes) -> bytes:
    """Return a path whose segments do not end with dots or blanks, as Windows names files."""
    if not (b"./" in text or b" /" in text or text.endswith((b".", b" "))):
        return text
    segments = [segment.rstrip(b" ") for segment in text.split(b"/")]
    return b"/".join([segment.rstrip(b" .") or segment for segment in segments])


def compatible(text: bytes) -> bytes:
    """Return a text in Unicode's form KC, in which a full-width slash is one; if not UTF-8, as it is."""
    if text.isascii():
        return text
    import unicodedata  # 700 KiB that most agents never need

    plain = text
    for letter, sign in _LOOKALIKES:
        plain = plain.replace(letter, sign)
    try:
        letters = plain.decode()
    except UnicodeDecodeError:
        return text
    if unicodedata.is_normalized("NFKC", letters):
        return plain
    return unicodedata.normalize("NFKC", letters).encode()


#: What applications do to a path, beside decoding it, in an order that only they know.
STEPS = (slashed, merged, resolved, without_query, without_parameters, without_ends, compatible)
_ASCII_STEPS = STEPS[:-1]
#: Signs of which there must be one for a step to do something.
_STEPS_BY_SIGNS: list[tuple[Step, int, int]] = [
    (slashed, _BACKSLASH, _BACKSLASH),
    (merged, _SLASH, _BACKSLASH),
    (resolved, _DOT, _DOT),
    (without_query, _QUESTION, _HASH),
    (without_parameters, _SEMICOLON, _SEMICOLON),
    (without_ends, _DOT, _BLANK),
]

"""Every way in which some application may read a path.

A rule about ``/admin`` is only worth something if ``//admin``, ``/x/../admin``, ``/%61dmin`` and
``/admin;a=b`` are about ``/admin`` as well, and applications do not agree on which of them are: some decode
twice, some resolve dots before they decode, some cut at ``;``. Istio chooses one normalisation per mesh and
leaves it to its operator to know the application (CVE-2021-31920 was the difference). Here a rule is asked
about each reading, and a request is let through only if it would be by all of them.

What no honest client sends is no path at all: control characters, UTF-8 that is longer than it need be,
Windows' ``%uXXXX``, text that is encoded three times, and unusual paths that are too long to be looked at
in a moment.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

#: Bytes of a path that needs more than one look. A Chinese title of 200 letters has 1,800.
MAX_UNUSUAL = 2048
#: Bytes of all readings of one path together: what keeps the worst of paths at about 2 ms.
MAX_READ = 16 * 1024
#: How many times an application, and whatever stands before it, may decode.
DECODINGS = 2

#: None of this in a path: then there is one way to read it.
_UNUSUAL = re.compile(rb"[^\x21-\x7e]|[%\\;#]|//|\.(?:/|\Z)")
#: C0 and C1, and the shortest of what follows E0, F0, F8 and FC, stand in no UTF-8 (RFC 3629 section 3).
_MALFORMED = re.compile(
    rb"[\x00-\x1f\x7f\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|\xf8[\x80-\x87]|\xfc[\x80-\x83]"
    rb"|%[uU][0-9a-fA-F]{4}"
)
#: What means something in a path, percent-encoded, and the same encoded once more; the sign % first.
_SIGNS = [(b"%%%b" % code, b"%%25%b" % code) for code in b"25 2F 2f 5C 5c 3B 3b 3F 3f 2E 2e 23".split()]
_SLASHES = re.compile(rb"/{2,}")
#: Without any of this every step leaves a text as it is.
_ACTED_ON = re.compile(rb"[\\?#; \x80-\xff]|//|/\.|[^/.]\.+(?:/|\Z)")
#: A segment that ends with dots or blanks and is more than dots.
_ENDS = re.compile(rb"[^/. ][. ]+(?:/|\Z)| (?:/|\Z)")
_QUERY = re.compile(rb"[?#]")
#: What some file systems and code pages take for a slash, and Unicode's compatibility forms leave alone.
_LOOKALIKES = str.maketrans({"\u2044": "/", "\u2215": "/", "\u29f8": "/", "\u2216": "\\", "\u29f5": "\\"})


def readings(path: bytes) -> tuple[bytes, ...] | None:
    """Return every reading of ``path``, as it came first; None if it is malformed.

    "As it came" is without the percent-encoding of what means nothing in a path: ``%61`` is ``a`` to
    everybody (RFC 3986 section 6.2.2.2), and ``%3A`` is ``:``. From there on it is every path that some
    order of the `STEPS` leads to, with two decodings at most among them.
    """
    if _UNUSUAL.search(path) is None:
        return (path,)
    if len(path) > MAX_UNUSUAL:
        return None
    found: dict[bytes, None] = {}
    waiting = [_decoded_but_for_signs(path)]
    size = 0
    for depth in range(DECODINGS + 1):
        level: list[bytes] = []
        while waiting:
            text = waiting.pop()
            if text in found:
                continue
            size += len(text)
            if size > MAX_READ or _MALFORMED.search(text) is not None:
                return None
            found[text] = None
            level.append(text)
            if _ACTED_ON.search(text) is not None:
                waiting += [new for step in STEPS if (new := step(text)) is not text]
        decoded = [new for text in level if b"%" in text and (new := unquote_to_bytes(text)) != text]
        if depth < DECODINGS:
            waiting = decoded
        elif decoded:
            return None
    return tuple(found)


def is_plain(text: bytes) -> bool:
    """Whether a decoded path is read in one way only, but for letters outside of ASCII."""
    steps = (step for step in STEPS if step is not compatible)
    return text[:1] == b"/" and all(step(text) == text for step in steps) and not _MALFORMED.search(text)


def _decoded_but_for_signs(path: bytes) -> bytes:
    for sign, kept in _SIGNS:
        path = path.replace(sign, kept)
    return unquote_to_bytes(path)


def slashed(text: bytes) -> bytes:
    """Return a path with backslashes as slashes, as browsers and Windows read it."""
    return text.replace(b"\\", b"/") if b"\\" in text else text


def merged(text: bytes) -> bytes:
    """Return a path without empty segments, as nginx and Go read it."""
    return _SLASHES.sub(b"/", text) if b"//" in text else text


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
    return _QUERY.split(text, maxsplit=1)[0] if b"?" in text or b"#" in text else text


def without_parameters(text: bytes) -> bytes:
    """Return a path whose segments end before a ``;``, as servlets read it."""
    if b";" not in text:
        return text
    return b"/".join([segment.partition(b";")[0] for segment in text.split(b"/")])


def without_ends(text: bytes) -> bytes:
    """Return a path whose segments do not end with dots or blanks, as Windows names files."""
    if _ENDS.search(text) is None:
        return text
    segments = [segment.rstrip(b" ") for segment in text.split(b"/")]
    return b"/".join([segment.rstrip(b" .") or segment for segment in segments])


def compatible(text: bytes) -> bytes:
    """Return a text in Unicode's form KC, in which a full-width slash is one; if not UTF-8, as it is."""
    if text.isascii():
        return text
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return text
    import unicodedata  # 700 KiB that most agents never need

    return unicodedata.normalize("NFKC", decoded.translate(_LOOKALIKES)).encode()


#: What applications do to a path, beside decoding it, in an order that only they know.
STEPS = (slashed, merged, resolved, without_query, without_parameters, without_ends, compatible)

"""Plain data: what JSON, msgpack and YAML have in common, checked, and written in one canonical way.

A document travels and is signed as plain data, so two agents must get the same digest from the same
document; and it comes from the bus, so nothing about it is believed before it is checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import cast

from busmesh.errors import InvalidDocument
from busmesh.yamlfile import FORBIDDEN, MAX_DEPTH, MAX_INT, Plain


def check_plain(value: object) -> Plain:
    """Return ``value`` if it is plain data that every format can carry.

    That is: null, booleans, 64-bit integers, finite floats, text without control characters, lists, and
    mappings with such text as keys; at most 64 levels deep. Looked at with a stack of our own, because a
    hostile one is deep.

    Raises:
        InvalidDocument: anything else.
    """
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InvalidDocument(f"nested deeper than {MAX_DEPTH} levels", code="BM1109")
        if isinstance(part, dict):
            for key, item in part.items():
                if not isinstance(key, str):
                    raise InvalidDocument("a key is not a string", code="BM1108")
                waiting.append((key, depth))
                waiting.append((item, depth + 1))
        elif isinstance(part, list):
            waiting.extend((item, depth + 1) for item in part)
        else:
            _check_scalar(part)
    return cast("Plain", value)


def _check_scalar(part: object) -> None:
    match part:
        case None | bool():
            pass
        case str():
            if FORBIDDEN.search(part):
                raise InvalidDocument("a text holds a control character", code="BM1104")
        case int():
            if abs(part) > MAX_INT:
                raise InvalidDocument("a number does not fit in 64 bits", code="BM1111")
        case float():
            if not math.isfinite(part):
                raise InvalidDocument("a number is not finite", code="BM1111")
        case _:
            raise InvalidDocument(f"{type(part).__name__} is not plain data", code="BM1203")


def canonical(value: Plain) -> str:
    """Return the one JSON text for ``value``: sorted keys, no blanks, text as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    """Return the SHA-256 of a canonical text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()

"""The jobs: what a contestant is asked to do, each with a name that says all of it, like ``get-32-16k``.

A job is a plain value, so that names, tables, charts and budgets mean the same one when they say the same.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Body of a "small" request; it goes without saying in a name.
SMALL_BYTES = 100
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_SIZE = re.compile(r"([1-9]\d{0,9})([kmg]?)")
#: A stream of small transfers is repeated until about so much went through: CPU time has a grain of 10 ms.
_STREAM_BYTES = 256 * 2**20

#: What runs when nobody chooses, in this order: what must find fresh processes comes first.
DEFAULT_NAMES = (
    *("idle", "start", "download-1g", "upload-1g", "download-1m", "upload-1m"),
    *("get-32", "get-1", "get-8", "get-128", "get-32-1k", "get-32-16k"),
    *("rate-1000", "rate-5000"),
)


@dataclass(frozen=True, slots=True)
class Get:
    """Closed loop: each connection sends its next GET when it has its answer."""

    connections: int
    body_bytes: int = SMALL_BYTES

    @property
    def name(self) -> str:
        body = "" if self.body_bytes == SMALL_BYTES else f"-{size_name(self.body_bytes)}"
        return f"get-{self.connections}{body}"

    def __str__(self) -> str:
        plural = "connection" if self.connections == 1 else "connections"
        return f"{self.connections} {plural}, GET of {size_words(self.body_bytes)}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Open loop: small GETs at fixed times, however long the answers take."""

    per_second: int
    body_bytes: int = SMALL_BYTES
    #: A request that finds all of them taken waits, and its latency grows.
    connections: int = 32

    @property
    def name(self) -> str:
        return f"rate-{self.per_second}"

    def __str__(self) -> str:
        return f"{self.per_second:,} requests/s at fixed times, GET of {size_words(self.body_bytes)}"


@dataclass(frozen=True, slots=True)
class Stream:
    """Large bodies one after the other over one connection."""

    upload: bool
    body_bytes: int

    @property
    def name(self) -> str:
        return f"{'upload' if self.upload else 'download'}-{size_name(self.body_bytes)}"

    @property
    def transfers(self) -> int:
        return max(1, _STREAM_BYTES // self.body_bytes)

    def __str__(self) -> str:
        many = f"{self.transfers} × " if self.transfers > 1 else ""
        return f"{'upload' if self.upload else 'download'} of {many}{size_words(self.body_bytes)}"


@dataclass(frozen=True, slots=True)
class Start:
    """One more proxy beside the application, from its process's birth until it is ready."""

    name: str = "start"

    def __str__(self) -> str:
        return "start of one proxy until it is ready"


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing at all, before any load: what standing there costs."""

    name: str = "idle"

    def __str__(self) -> str:
        return "nothing to do, before any load"


Job = Get | Rate | Stream | Start | Idle


def size_name(size: int) -> str:
    """Return ``16k`` for 16384: the shortest name that :func:`parse_size` reads back."""
    for unit, factor in reversed(_UNITS.items()):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    raise AssertionError(size)  # every number is a multiple of one


def size_words(size: int) -> str:
    """Return a size for people: ``16 KiB``."""
    name = size_name(size)
    return f"{name[:-1]} {name[-1].upper()}iB" if name[-1].isalpha() else f"{name} bytes"


def parse_size(text: str) -> int:
    """Read ``100``, ``16k``, ``1m`` or ``1g``."""
    if (found := _SIZE.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no size; write 100, 16k, 1m or 1g")
    return int(found[1]) * _UNITS[found[2]]


def parse_job(name: str) -> Job:
    """Return the job of one name.

    Raises:
        ValueError: there is none; the message says which there are.
    """
    match name.split("-"):
        case ["idle"]:
            return Idle()
        case ["start"]:
            return Start()
        case ["get", connections]:
            return Get(_count(connections))
        case ["get", connections, body]:
            return Get(_count(connections), parse_size(body))
        case ["rate", rate]:
            return Rate(_count(rate))
        case ["download" | "upload" as direction, body]:
            return Stream(direction == "upload", parse_size(body))
        case _:
            raise ValueError(
                f"no job {name!r}; there are get-CONNECTIONS[-SIZE], rate-PER_SECOND, download-SIZE, "
                "upload-SIZE, start and idle"
            )


def parse_jobs(text: str) -> list[Job]:
    """Read ``get-32,rate-*``: names, and patterns that stand for those of the default ones that match.

    Raises:
        ValueError: a name or pattern that means no job.
    """
    chosen: list[str] = []
    for word in text.split(","):
        found: Sequence[str] = fnmatch.filter(DEFAULT_NAMES, word) if "*" in word else [word]
        if not found:
            raise ValueError(f"no job matches {word!r}; there are {', '.join(DEFAULT_NAMES)}")
        chosen += found
    return list(dict.fromkeys(parse_job(name) for name in chosen))


def _count(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 100_000):
        raise ValueError(f"{text!r} is no number from 1 to 100000")
    return int(text)

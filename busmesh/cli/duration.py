"""Durations on the command line: as policies write them (``500ms``, ``1m30s``), in days, or in seconds."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from busmesh.policy.fields import is_duration, seconds

_DAYS = re.compile(r"([0-9]{1,4})d")
DAY_S = 86400.0


class Duration(click.ParamType[float]):
    """A length of time, as seconds.

    Args:
        least: the shortest that is of use, seconds.
        why: what goes wrong below it, for the error.
    """

    name = "duration"

    def __init__(self, least: float = 0.0, why: str = "") -> None:
        self._least = least
        self._why = why

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read what somebody wrote.

        Raises:
            click.BadParameter: it is no duration, or too short.
        """
        if isinstance(value, float):
            return value
        length = _read(str(value))
        if length is None:
            self.fail(f"{value!r} is not a duration; write 5s, 500ms, 1h30m or 90d", param, ctx)
        if length < self._least:
            self.fail(f"at least {self._least:g}s: {self._why}", param, ctx)
        return length


class DurationOrNever(Duration):
    """The same, or ``never``, which is infinitely long."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if str(value).lower() in ("never", "inf"):
            return math.inf
        return super().convert(value, param, ctx)


def _read(text: str) -> float | None:
    days = _DAYS.match(text)
    rest = text[days.end() :] if days is not None else text
    whole = float(days.group(1)) * DAY_S if days is not None else 0.0
    if days is not None and not rest:
        return whole
    if rest[-1:].isdigit() and rest.isascii():
        rest += "s"
    return whole + seconds(rest) if is_duration(rest) else None

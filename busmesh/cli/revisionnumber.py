"""Numbers of revisions on the command line."""

from __future__ import annotations

import re
from typing import Any

import click

_NUMBER = re.compile(r"[0-9]{1,15}")


class RevisionNumber(click.ParamType[int]):
    """A number that ``busmesh policy history`` lists.

    Args:
        least: 0 where what was before the first revision is meant as well.
    """

    name = "number"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read what somebody wrote.

        Raises:
            click.BadParameter: it is no number of a revision.
        """
        text = str(value)
        if not _NUMBER.fullmatch(text) or int(text) < self._least:
            self.fail(
                f"{text[:80]!r} is no revision. Each publish makes one, and they are numbered from 1;"
                f" {'0 is before the first; ' * (not self._least)}busmesh policy history lists them",
                param,
                ctx,
            )
        return int(text)

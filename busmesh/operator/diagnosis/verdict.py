"""One thing that was looked at, and how it is.

Three states, as ``linkerd check`` has them: ``failed`` is what stops requests or changes now or very soon,
``warning`` what somebody should do something about before it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from busmesh.errors import BusmeshError

#: What to do when nothing on the bus is by anybody whom the home trusts.
OTHER_HOME = "is this the bus of another mesh? name the home that belongs to it: --home, BUSMESH_HOME"


class Verdict(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: what it belongs to: home, bus, logs, authority, clocks, agents, policies.
        verdict: how it is.
        text: what was found, on one line.
        hint: what to do about it; empty if it is ok.
        code: of the error behind it; empty if there is none.
    """

    group: str
    verdict: Verdict
    text: str
    hint: str = ""
    code: str = ""


def ok(group: str, text: str) -> Check:
    return Check(group, Verdict.OK, text)


def warning(group: str, text: str, hint: str) -> Check:
    return Check(group, Verdict.WARNING, text, hint)


def failed(group: str, text: str, hint: str, code: str = "") -> Check:
    return Check(group, Verdict.FAILED, text, hint, code)


def broken(group: str, error: BusmeshError, otherwise: str = "") -> Check:
    """Return the check that an error ended; ``otherwise``: what to do if the error does not say."""
    return failed(group, error.message, error.hint or otherwise, error.code)

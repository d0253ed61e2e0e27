"""What there is to see of a running demo: its steps, what is happening, the figures. A screen draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from busmesh.demo.desk import Published
from busmesh.demo.heard import Heard
from busmesh.demo.ledger import Ledger, Part


class State(Enum):
    """How far a step is."""

    WAITING = "waiting"
    NOW = "now"
    DONE = "done"


@dataclass(slots=True)
class Step:
    """One part of the demo as people see it.

    Attributes:
        title: what is done.
        said: what came of it.
    """

    title: str
    said: str = ""
    state: State = State.WAITING


def _steps() -> dict[Part, Step]:
    return {
        Part.EVEN: Step("start the mesh"),
        Part.SPLIT: Step("split orders 80 to 20"),
        Part.CANARY: Step("canary by header"),
        Part.KILL: Step("kill an instance"),
    }


@dataclass(slots=True)
class Board:
    """Everything that a screen shows.

    Attributes:
        began: when the demo began, by the clock of ``heard``.
        duration: seconds that it is to last.
        part: whose figures are shown.
        doing: what is happening now, or the command that does it.
        started_s: seconds until the mesh served.
        processes: of the mesh.
        published: revisions, the oldest first.
        victim: who was killed.
        tries_before: failed tries before that.
        casualties: who ended though nobody killed it, and the end of its log.
        over: all parts have been played.
    """

    heard: Heard
    began: float
    duration: float
    ledger: Ledger = field(default_factory=Ledger)
    steps: dict[Part, Step] = field(default_factory=_steps)
    part: Part = Part.EVEN
    doing: str = ""
    started_s: float = 0.0
    processes: int = 0
    published: list[Published] = field(default_factory=list)
    victim: str = ""
    tries_before: int = 0
    casualties: dict[str, str] = field(default_factory=dict)
    over: bool = False

    @property
    def lost_tries(self) -> int:
        """Tries that failed since the kill, by what the agents tell."""
        return self.heard.failed_tries - self.tries_before if self.victim else 0

"""Hedging: a second try beside one whose time is up, and whichever answers first counts.

The tries of one request run as exchanges of their own. What the request holds, its place and its client, goes
along with one of them.
"""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar

from busmesh.relay.destination.upstream import Endpoint


class Runner(Protocol):
    """One try, and what it takes to run another beside it.

    Attributes:
        endpoint: the instance that is tried.
        tried: those that are to be avoided.
    """

    endpoint: Endpoint | None
    tried: list[Endpoint]

    def copy(self) -> Self:
        """Return another try of the same request."""

    def hand_over(self, other: Self) -> None:
        """Let another try have what the request holds."""


AnyRunner = TypeVar("AnyRunner", bound=Runner)


class Race(Generic[AnyRunner]):
    """The tries of one request that run at the same time.

    Attributes:
        runners: in the order in which they began; never empty.
    """

    def __init__(self, first: AnyRunner) -> None:
        self.runners = [first]

    def join(self) -> AnyRunner:
        """Return a new runner for the same request, which avoids the instances of the others."""
        first = self.runners[0]
        rival = first.copy()
        for runner in self.runners:
            if runner.endpoint is not None:
                rival.tried.append(runner.endpoint)
        self.runners.append(rival)
        return rival

    def leave(self, runner: AnyRunner) -> bool:
        """Take one out that failed; False if it is the last, whose failure is the request's."""
        if len(self.runners) == 1:
            return False
        self.runners.remove(runner)
        runner.hand_over(self.runners[0])
        return True

    def win(self, runner: AnyRunner) -> list[AnyRunner]:
        """End the race; return those that are to be called off."""
        others = [other for other in self.runners if other is not runner]
        for other in others:
            other.hand_over(runner)
        self.runners = [runner]
        return others

    def __repr__(self) -> str:
        return f"<Race runners={len(self.runners)}>"

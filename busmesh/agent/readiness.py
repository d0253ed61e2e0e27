"""Readiness as a list of named tasks: not ready says what is awaited."""

from __future__ import annotations

from collections.abc import Callable

#: Returns what is awaited, or nothing once it is there.
Task = Callable[[], str]


class Readiness:
    """Ready when no task awaits anything."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def require(self, name: str, task: Task) -> None:
        self._tasks[name] = task

    def awaited(self) -> dict[str, str]:
        """Return what is awaited by name of task; empty when ready."""
        return {name: why for name, task in self._tasks.items() if (why := task())}

    def __repr__(self) -> str:
        return f"<Readiness tasks={len(self._tasks)} awaited={self.awaited()}>"

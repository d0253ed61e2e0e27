"""A drill as it goes on: who showed which certificate before, and since when another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from busmesh.identity.verify import Verified
from busmesh.members.announcement import Announcement
from busmesh.names import ServiceName

Key = tuple[ServiceName, str]


class DrillProgress:
    """Compares what agents prove themselves by with what they did before the drill.

    Args:
        before: by service and instance, as the roll call gave it.
        began: monotonic seconds.
    """

    def __init__(self, before: Mapping[Key, Verified], began: float) -> None:
        self._before = {key: shown.serial for key, shown in before.items()}
        self._began = began
        self._answered: set[Key] = set()
        #: The new serial number of each agent, and after how many seconds it was seen.
        self.renewed: dict[Key, tuple[int, float]] = {}

    def __repr__(self) -> str:
        return f"<DrillProgress {len(self.renewed)} of {len(self._before)}>"

    def note(self, member: Announcement, shown: Verified, now: float) -> bool:
        """Take an answer to the roll call; say whether its agent is done. Who joined meanwhile is."""
        key = (member.name, member.instance)
        serial = self._before.get(key)
        if serial is None:
            return True
        self._answered.add(key)
        if shown.serial != serial:
            self.renewed.setdefault(key, (shown.serial, now - self._began))
        return key in self.renewed

    @property
    def lacking(self) -> list[Key]:
        """Those who were there before and have shown no other certificate."""
        return [key for key in self._before if key not in self.renewed]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each agent that was there before."""
        rows = []
        for key, old in sorted(self._before.items(), key=lambda item: (str(item[0][0]), item[0][1])):
            serial, after = self.renewed.get(key, (old, None))
            state = "renewed" if after is not None else "old SVID" if key in self._answered else "no answer"
            rows.append(
                {
                    "instance": key[1],
                    "service": str(key[0]),
                    "serial": f"{serial:x}",
                    "after_s": None if after is None else round(after, 3),
                    "state": state,
                }
            )
        return rows

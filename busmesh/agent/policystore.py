"""The policy log on disk, so that an agent can start without the bus's copy."""

from __future__ import annotations

from pathlib import Path

from busmesh.identity.logfile import LogFile

MAX_BYTES = 256 * 1024 * 1024
MAX_ENTRY = 1024 * 1024


class PolicyStore(LogFile):
    """The log in the agent's private folder; entries are verified and folded like those from the bus."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "log", "the policies", max_bytes=MAX_BYTES, max_entry=MAX_ENTRY)

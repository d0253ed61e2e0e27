"""Entries of the trust log on disk, so that nobody forgets a revocation by starting anew."""

from __future__ import annotations

from pathlib import Path

from busmesh.identity import files
from busmesh.identity.logfile import LogFile
from busmesh.identity.trustlog import MAX_ENTRY

MAX_BYTES = 64 * 1024 * 1024


class TrustStore(LogFile):
    """The log in a private folder, which is made if missing.

    Raises:
        IdentityError: others may look into the folder (code BM4502).
    """

    def __init__(self, folder: Path) -> None:
        file = files.private_folder(folder) / "log"
        super().__init__(file, "the trust log", max_bytes=MAX_BYTES, max_entry=MAX_ENTRY)

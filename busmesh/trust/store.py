"""Entries of the trust log on disk, so that nobody forgets a revocation by starting anew.

Nothing is believed because it lies here: each entry is proven again when it is read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgpack

from busmesh.identity import files
from busmesh.identity.trustlog import MAX_ENTRY

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024 * 1024


class TrustStore:
    """One file in a private folder, made if missing.

    Raises:
        IdentityError: others may look into the folder (code BM4502).
    """

    def __init__(self, folder: Path) -> None:
        self._file = files.private_folder(folder) / "log"

    def __repr__(self) -> str:
        return f"<TrustStore {self._file}>"

    def read(self) -> list[bytes]:
        """Return the entries, up to the first that cannot be read: a crash may have cut the last."""
        try:
            if self._file.stat().st_size > MAX_BYTES:
                log.warning("%s is too large; reading the trust log from the bus instead", self._file)
                return []
            unpacker = msgpack.Unpacker(max_buffer_size=MAX_BYTES, max_bin_len=MAX_ENTRY)
            unpacker.feed(self._file.read_bytes())
        except FileNotFoundError:
            return []
        entries: list[bytes] = []
        try:
            for entry in unpacker:
                if not isinstance(entry, bytes):
                    break
                entries.append(entry)
        except (ValueError, msgpack.UnpackException):
            log.warning("%s is damaged after %d entries", self._file, len(entries))
        return entries

    def append(self, entry: bytes) -> None:
        with self._open(self._file, os.O_APPEND) as file:
            file.write(msgpack.packb(entry))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, entries: Iterable[bytes]) -> None:
        """Write the file anew; a crash leaves the old one or the new one."""
        fresh = self._file.with_suffix(".new")
        with self._open(fresh, os.O_TRUNC) as file:
            for entry in entries:
                file.write(msgpack.packb(entry))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)

    @staticmethod
    def _open(path: Path, flags: int) -> BinaryIO:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")

"""A log on disk: signed entries one after the other, proven again whenever they are read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgpack

log = logging.getLogger(__name__)


class LogFile:
    """One file in a private folder. Nothing is believed because it lies there.

    Args:
        file: made at the first entry, for its owner alone.
        what: it holds, for people: "the policies".
        max_bytes: a larger file is not read.
        max_entry: bytes of one entry.
    """

    def __init__(self, file: Path, what: str, *, max_bytes: int, max_entry: int) -> None:
        self._file = file
        self._what = what
        self._max_bytes = max_bytes
        self._max_entry = max_entry

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file}>"

    def read(self) -> list[bytes]:
        """Return the entries, up to the first that cannot be read: a crash may have cut the last."""
        try:
            if self._file.stat().st_size > self._max_bytes:
                log.warning("%s is too large; reading %s from the bus instead", self._file, self._what)
                return []
            unpacker = msgpack.Unpacker(max_buffer_size=self._max_bytes, max_bin_len=self._max_entry)
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

"""Which logins to the bus were signed for whom: what has to be known to take one back.

The server is told of logins by their keys, and a revocation names certificates, instances, services or
operators. So whoever signs a login writes a line into one file of the authority's home: the authority itself,
and the commands that work there. A line says nothing secret, and is forgotten when its login has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from busmesh.bus.jwt import claims_of
from busmesh.identity import files
from busmesh.identity.jointoken import Grant
from busmesh.identity.profile import BACKDATE_S
from busmesh.identity.revocation import Revocations

log = logging.getLogger(__name__)

#: Logins that are remembered; one takes about 0.5 KiB. Above it nobody is given another before some end.
CAPACITY = 300_000
#: Of one holder, which renews its login once in half an hour; so who has stolen one cannot fill the memory.
PER_HOLDER = 64
#: A login counts as ended so long after its end, since it is the server's clock that ends it.
MARGIN_S = 60.0
#: When a login that has no end ends: in the year 9999.
NEVER = 253_402_300_799
#: The file is written anew when it has so many lines more than twice those that count.
SPARE_LINES = 1000
EXPIRE_EVERY_S = 60.0

_NEWCOMER = "join/"


@dataclass(frozen=True, slots=True)
class Issued:
    """One login that was signed.

    Attributes:
        key: the user's public key.
        holder: a SPIFFE ID, or ``join/<token>`` or ``observer/<name>``.
        serial: number of the certificate that it goes with; 0 if with none.
        at: when it was signed, unix seconds.
        until: when it ends, unix seconds.
    """

    key: str
    holder: str
    serial: int
    at: int
    until: int

    @classmethod
    def of(cls, jwt: str, holder: str, serial: int = 0) -> Issued:
        """Return what there is to remember of a login that was just signed."""
        claims = claims_of(jwt)
        return cls(claims["sub"], holder, serial, claims["iat"], claims.get("exp", NEVER))

    def line(self) -> bytes:
        # It begins with the end of the line before, so that one that a crash cut off spoils no other.
        fields = [self.key, self.holder, f"{self.serial:x}", self.at, self.until]
        return b"\n" + json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, line: bytes) -> Issued | None:
        """Read a line; None if it is none."""
        try:
            match json.loads(line):
                case [str(key), str(holder), str(serial), int(at), int(until)]:
                    return cls(key, holder, int(serial, 16), at, until)
        except (ValueError, RecursionError):
            pass
        return None


def newcomer(token_id: str) -> str:
    """Return how the holder of a join token is called here."""
    return f"{_NEWCOMER}{token_id}"


def newcomers(grant: Grant, now: float) -> Issued:
    """Return the login of who holds a join token, which is in the token's file and not signed here each time.

    Args:
        grant: of the token.
        now: unix seconds.
    """
    until = NEVER if grant.expires is None else int(grant.expires)
    return Issued(grant.token.bus_key().public, newcomer(grant.token.id), 0, int(now), until)


def observer(name: str) -> str:
    """Return how somebody who only looks is called here."""
    return f"observer/{name}"


class Logins:
    """Those that have not ended, by holder and key, and the file that they are kept in.

    Args:
        file: in the private folder of the authority.
        clock: unix seconds.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._held: dict[str, dict[str, Issued]] = {}
        self._holders: dict[str, str] = {}
        self._count = 0
        self._lines = 0
        self._place = (0, 0)  # the file's number, and how much of it was read
        self._expire_at = 0.0
        #: Changes whenever there may be another answer to who is shut out.
        self.version = 0

    def __repr__(self) -> str:
        return f"<Logins {self._count} of {len(self._held)} holders>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Issued]:
        for held in self._held.values():
            yield from held.values()

    # -- memory ------------------------------------------------------------------------------------

    def room(self, holder: str, shut_out: Collection[str] = ()) -> bool:
        """Say whether ``holder`` may be given another login; what it has been taken back does not count."""
        self._expire()
        held = self._held.get(holder, {})
        if len(held) >= PER_HOLDER:
            now = self._clock()
            held = {key: one for key, one in held.items() if now < one.until + MARGIN_S}
            if sum(key not in shut_out for key in held) >= PER_HOLDER:
                return False
        return self._count < CAPACITY

    def another(self, key: str, holder: str) -> str:
        """Return who else than ``holder`` has a login for this key; "" if nobody does.

        A key is taken back from all who have it. So somebody who asks for a login for a key that it has only
        seen, and is revoked, would take along whose key it is.
        """
        self._expire()
        known = self._holders.get(key, holder)
        return "" if known == holder else known

    def add(self, issued: Issued) -> None:
        """Remember a login, on disk too; a full disk is worth a line in the log and no more."""
        self._take(issued)
        try:
            self.append(issued)
        except OSError as error:
            log.error("the login of %s was not written down: %s", issued.holder, error.strerror)

    def _take(self, issued: Issued) -> bool:
        if self._clock() >= issued.until + MARGIN_S:
            return False
        held = self._held.setdefault(issued.holder, {})
        known = held.get(issued.key)
        if known is None:
            self._count += 1
        elif known.until >= issued.until:
            return False
        held[issued.key] = issued
        self._holders.setdefault(issued.key, issued.holder)
        self.version += 1
        return True

    def _expire(self) -> None:
        now = self._clock()
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRE_EVERY_S
        for holder, held in list(self._held.items()):
            left = {key: issued for key, issued in held.items() if now < issued.until + MARGIN_S}
            if len(left) == len(held):
                continue
            self._count -= len(held) - len(left)
            for key in held.keys() - left.keys():
                if self._holders.get(key) == holder:
                    del self._holders[key]
            if left:
                self._held[holder] = left
            else:
                del self._held[holder]

    def knows(self, holder: str) -> bool:
        return holder in self._held

    # -- disk --------------------------------------------------------------------------------------

    def append(self, issued: Issued) -> None:
        """Write a line for whoever follows the file.

        Raises:
            OSError: it cannot be written.
        """
        files.private_folder(self._file.parent)
        with self._locked():
            self._write(os.O_APPEND, (issued,))

    def follow(self) -> bool:
        """Read what others have added to the file; say whether there was anything new."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return False
        number, offset = self._place
        if status.st_ino != number or status.st_size < offset:
            offset = self._lines = 0
        if status.st_size == offset:
            return False
        with self._file.open("rb") as file:
            file.seek(offset)
            data = file.read(status.st_size - offset)
        self._place = (status.st_ino, offset + len(data))
        found = [issued for line in data.split(b"\n") if line and (issued := Issued.parse(line)) is not None]
        self._lines += len(found)
        return sum(self._take(issued) for issued in found) > 0

    def tidy(self) -> None:
        """Forget what has ended, also on disk, if that is worth it.

        Raises:
            OSError: the file cannot be written; the old one is as it was.
        """
        self._expire()
        if self._lines <= 2 * self._count + SPARE_LINES:
            return
        with self._locked():
            self.follow()
            fresh = self._file.with_suffix(".new")
            self._write(os.O_TRUNC, self, fresh)
            fresh.replace(self._file)
            status = self._file.stat()
        self._place, self._lines = (status.st_ino, status.st_size), self._count

    def _write(self, flags: int, issued: Iterable[Issued], path: Path | None = None) -> None:
        descriptor = os.open(path or self._file, os.O_WRONLY | os.O_CREAT | flags, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b"".join(each.line() for each in issued))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from adding a line to a file that is being replaced."""
        if os.name != "posix":
            yield
            return
        import fcntl

        descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # -- who is shut out ---------------------------------------------------------------------------

    def hit(self, revocations: Revocations) -> Iterator[Issued]:
        """Return those whose certificate or holder was revoked."""
        if not len(revocations):
            return
        serials = any(revocation.serial for revocation in revocations)
        names = {revocation.target for revocation in revocations}
        for holder, held in self._held.items():
            if serials or holder in names or holder.partition("/i/")[0] in names:
                for issued in held.values():
                    if revocations.hitting(holder, issued.serial, issued.at - BACKDATE_S) is not None:
                        yield issued

    def without_token(self, tokens: Collection[str]) -> Iterator[Issued]:
        """Return those of newcomers whose join token is not among ``tokens`` any more."""
        for holder, held in self._held.items():
            if holder.startswith(_NEWCOMER) and holder.removeprefix(_NEWCOMER) not in tokens:
                yield from held.values()


def shut_out(logins: Iterable[Issued], now: float) -> dict[str, int]:
    """Return up to when (unix seconds) what was issued to each key counts no more.

    That is the end of the login and not the moment of its revocation: it says the same of this login, since a
    key is given one, and whoever reads it knows when there is nothing left to be remembered.
    """
    return {
        issued.key: min(NEVER, issued.until + int(MARGIN_S))
        for issued in logins
        if now < issued.until + MARGIN_S
    }


def joined(told: Mapping[str, int], wanted: Mapping[str, int], now: float, limit: int) -> dict[str, int]:
    """Return what the bus is to be told: what it knows, and what is wanted, without what has ended.

    Several authorities tell the same bus, so none takes out what another has put in.

    Args:
        told: what it was told last, by whomever.
        wanted: of this authority.
        now: unix seconds.
        limit: how many at most; those that end first are left out.
    """
    left = {key: until for key, until in told.items() if now < until}
    for key, until in wanted.items():
        left[key] = max(until, left.get(key, 0))
    if len(left) <= limit:
        return left
    lasting = sorted(left.items(), key=lambda each: each[1], reverse=True)
    return dict(lasting[:limit])

"""Revocations: whose certificates count no more although they have not expired.

A revocation names one certificate by its serial number, or everything that was issued to an instance, a
service or an operator up to a moment. What is issued later counts: the true instance gets a new SVID with its
join token, which the thief of a key does not have, so nothing ever has to be taken back.

It is kept until the last certificate that it hits has expired, and forgotten then.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from busmesh.errors import IdentityError, InvalidName, RemoteProtocolError
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.profile import BACKDATE_S, CLOCK_SKEW_S
from busmesh.names import SpiffeId, token

MAX_BODY = 2048
MAX_REASON = 256
#: Revocations held at once; an operator who has more to revoke than this replaces the root.
MAX_REVOCATIONS = 16384
_MAX_TIME_MS = (1 << 53) - 1
_SERIAL_BYTES = 20
_SERVICE = re.compile(r"spiffe://([^/]{1,63})/ns/([^/]{1,63})/svc/([^/]{1,63})")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One statement: these certificates count no more.

    Attributes:
        target: a SPIFFE ID, or that of a service without the instance; empty if any ID is meant.
        serial: of the one certificate that is meant; 0 for all that were issued to the target.
        at_ms: when it was made; what was issued to the target up to then is meant, give or take the skew of
            two clocks.
        until_ms: from when on it says nothing any more, because what it hits has expired.
        through: the last policy revision that an operator who is hit has signed rightly.
        reason: a word for people.
    """

    target: str
    serial: int
    at_ms: int
    until_ms: int
    through: int = 0
    reason: str = ""

    @property
    def key(self) -> tuple[str, int]:
        """What it hits; two of the same are joined."""
        return self.target, self.serial

    @property
    def name(self) -> str:
        """What it hits, for people."""
        return " ".join(filter(None, (self.target, f"{self.serial:x}" if self.serial else "")))

    def joined(self, other: Revocation) -> Revocation:
        """Return what both say together: a later statement never weakens an earlier one."""
        newer = max(self, other, key=lambda each: each.at_ms)
        return replace(
            newer,
            until_ms=max(self.until_ms, other.until_ms),
            through=min(self.through, other.through),
        )

    def encode(self) -> bytes:
        return pack(
            self.target.encode(),
            self.serial.to_bytes(_SERIAL_BYTES),
            self.at_ms,
            self.until_ms,
            self.through,
            self.reason.encode()[:MAX_REASON],
        )

    @classmethod
    def decode(cls, body: bytes, mesh: str) -> Revocation:
        """Read the body of a signed revocation of ``mesh``.

        Raises:
            RemoteProtocolError: malformed (codes BM4101 to BM4103), or it hits nothing that can be (BM4120).
        """
        reader = FieldReader(body, 6, max_size=MAX_BODY, what="revocation")
        target = reader.binary(512).decode("ascii", "replace")
        serial = int.from_bytes(reader.binary(_SERIAL_BYTES))
        at_ms, until_ms, through = reader.integer(), reader.integer(), reader.integer()
        reason = reader.binary(MAX_REASON).decode("utf-8", "replace")
        reader.end()
        if not (target or serial) or max(at_ms, until_ms, through) > _MAX_TIME_MS:
            raise RemoteProtocolError("a revocation of nothing", code="BM4120")
        if target:
            check_target(target, mesh)
        return cls(target, serial, at_ms, until_ms, through, reason)


def check_target(target: str, mesh: str) -> SpiffeId | None:
    """Return the ID that ``target`` is, None if it means all instances of a service.

    Raises:
        RemoteProtocolError: it is neither, or of another mesh (code BM4120).
    """
    try:
        found = _SERVICE.fullmatch(target)
        if found is None:
            spiffe_id = SpiffeId.parse(target)
            if spiffe_id.mesh == mesh:
                return spiffe_id
        elif found[1] == mesh:
            token(found[2], "namespace")
            token(found[3], "service")
            return None
    except InvalidName:
        pass
    raise RemoteProtocolError(f"{target[:200]!r} cannot be revoked in mesh {mesh!r}", code="BM4120")


def workload_namespace(target: str, mesh: str) -> str:
    """Return the namespace of a workload or a service; empty for anybody else.

    Raises:
        RemoteProtocolError: as `check_target` does.
    """
    spiffe_id = check_target(target, mesh)
    if spiffe_id is None:
        found = _SERVICE.fullmatch(target)
        return "" if found is None else found[2]
    return "" if spiffe_id.service is None else spiffe_id.service.namespace


class Revocations:
    """All that hold, by what they hit; a check costs two or three look-ups, and none while there are none."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], Revocation] = {}
        self._digest = ""
        #: By service, for who asks; None until somebody does.
        self._by_principal: dict[str, list[Revocation]] | None = None

    def __repr__(self) -> str:
        return f"<Revocations {len(self)}>"

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Revocation]:
        return iter(self._held.values())

    def add(self, revocation: Revocation, now: float) -> bool:
        """Heed ``revocation`` from now on; False if it says nothing new, or nothing any more."""
        known = self._held.get(revocation.key)
        if now * 1000 >= revocation.until_ms or (known is None and len(self) >= MAX_REVOCATIONS):
            return False
        joined = revocation if known is None else known.joined(revocation)
        if joined == known:
            return False
        self._held[revocation.key] = joined
        self._changed()
        return True

    def expire(self, now: float) -> list[Revocation]:
        """Forget what hits only certificates that have expired; return it."""
        over = [revocation for revocation in self if now * 1000 >= revocation.until_ms]
        for revocation in over:
            del self._held[revocation.key]
            self._changed()
        return over

    def _changed(self) -> None:
        self._digest, self._by_principal = "", None

    def of(self, principal: str) -> list[Revocation]:
        """Return what was revoked of a service or operator, the latest first."""
        if self._by_principal is None:
            self._by_principal = {}
            for each in sorted(self, key=lambda each: each.at_ms, reverse=True):
                self._by_principal.setdefault(each.target.partition("/i/")[0], []).append(each)
        return self._by_principal.get(principal, [])

    def check(self, spiffe_id: SpiffeId, serial: int, not_before: float) -> None:
        """Refuse a certificate that is hit.

        Args:
            spiffe_id: whom it names.
            serial: its number.
            not_before: from when on it is valid, unix seconds: the authority dates back by 30 s.

        Raises:
            IdentityError: it was revoked (code BM4009).
        """
        if self._held and (hit := self.hitting(spiffe_id, serial, not_before)) is not None:
            raise IdentityError(
                f"{spiffe_id} was revoked",
                code="BM4009",
                hint=f"reason given: {hit.reason or 'none'}; start its agent again with a join token",
            )

    def hitting(self, spiffe_id: SpiffeId | str, serial: int, not_before: float) -> Revocation | None:
        """Return the revocation that hits a certificate, None if there is none.

        Args:
            spiffe_id: whom it names.
            serial: its number; 0 if it has none yet, or nobody knows it.
            not_before: from when on it is valid, unix seconds.
        """
        spelled, held = str(spiffe_id), self._held
        if serial:
            hit = held.get(("", serial)) or held.get((spelled, serial))
            if hit is not None:
                return hit
        issued_ms = (not_before + BACKDATE_S - CLOCK_SKEW_S) * 1000
        for name in (spelled, spelled.partition("/i/")[0]):
            hit = held.get((name, 0))
            if hit is not None and issued_ms <= hit.at_ms:
                return hit
        return None

    def covers(self, revocation: Revocation) -> bool:
        """Say whether what ``revocation`` says is heeded."""
        held = self._held.get(revocation.key)
        return held is not None and held.at_ms >= revocation.at_ms

    def through(self, spiffe_id: SpiffeId, serial: int, not_before: float) -> int | None:
        """Return the last policy revision that a signer counts for; None if there is no limit."""
        hit = self.hitting(spiffe_id, serial, not_before) if self._held else None
        return None if hit is None else hit.through

    @property
    def digest(self) -> str:
        """A short digest of all that hold, by which two sets are compared; empty if there are none."""
        if not self._digest and self._held:
            lines = sorted(f"{entry.name} {entry.at_ms} {entry.until_ms}" for entry in self)
            self._digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return self._digest

"""Revoking: whom it hits, how long it must be kept, and who may sign it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from busmesh.errors import RemoteProtocolError, UsageError
from busmesh.identity.profile import CLOCK_SKEW_S, MAX_LIFETIME_S, Kind, kind_of
from busmesh.identity.revocation import Revocation, check_target
from busmesh.identity.verify import Verified
from busmesh.names import SpiffeId

_SERIAL = re.compile(r"(?:0x)?([0-9a-f]{1,40})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be revoked.

    Attributes:
        uri: a SPIFFE ID or that of a service; empty if only a serial number is known.
        serial: of one certificate; 0 for all.
        kind: of whom; None if nobody knows.
        not_after: when the one certificate expires, in unix seconds, if it is known.
    """

    uri: str
    serial: int = 0
    kind: Kind | None = None
    not_after: float | None = None

    @property
    def needs_root(self) -> bool:
        """Whether an operator's word is not enough."""
        return self.kind is not Kind.WORKLOAD or not self.uri


def read_target(text: str, mesh: str, certificates: Iterable[Verified]) -> Target:
    """Return what ``text`` means: a SPIFFE ID, that of a service without the instance, or a serial number.

    Args:
        text: as `busmesh identity show` prints it.
        mesh: the mesh's name.
        certificates: of those who answered, to find out whose a serial number is.

    Raises:
        UsageError: it is none of these (code BM4122).
    """
    found = _SERIAL.fullmatch(text)
    if found is not None:
        serial = int(found[1], 16)
        for known in certificates:
            if known.serial == serial:
                return Target(str(known.id), serial, kind_of(known.id), known.not_after)
        return Target("", serial)
    try:
        spiffe_id: SpiffeId | None = check_target(text, mesh)
    except RemoteProtocolError:
        raise UsageError(
            f"{text[:200]!r} names nobody in mesh {mesh!r}",
            code="BM4122",
            hint=f"write spiffe://{mesh}/ns/NAMESPACE/svc/SERVICE[/i/INSTANCE], "
            f"spiffe://{mesh}/operator/NAME, or a serial number: busmesh identity show",
        ) from None
    return Target(text, kind=Kind.WORKLOAD if spiffe_id is None else kind_of(spiffe_id))


def make_revocation(target: Target, now: float, *, through: int = 0, reason: str = "") -> Revocation:
    """Return the revocation of ``target`` as of ``now``, to be kept until all that it hits has expired.

    Args:
        now: unix seconds.
        through: the last policy revision that an operator who is hit has signed rightly.
        reason: a word for people.
    """
    longest = max(MAX_LIFETIME_S.values()) if target.kind is None else MAX_LIFETIME_S[target.kind]
    end = now + longest if target.not_after is None else target.not_after
    until = end + 2 * CLOCK_SKEW_S
    return Revocation(target.uri, target.serial, int(now * 1000), int(until * 1000), through, reason)

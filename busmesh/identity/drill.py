"""The order to renew now: an operator tries today what the agents would otherwise do within the half hour.

Whether renewal works shows only when it is due, and then it is late to mend it. A drill makes it due at once,
for everybody, on a day of the operator's choice; nothing else follows from it, so a replayed order costs one
renewal at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier

PURPOSE = "trust.drill"
MAX_ORDER = 8192
#: Seconds after which an order counts no more: it was meant for who was there.
MAX_AGE_S = 15.0
MAX_SPREAD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Drill:
    """One order.

    Attributes:
        operator: who gave it.
        spread_s: seconds over which the agents spread their renewals.
        time_ms: when it was given, unix milliseconds; an agent heeds none that is not later than the last.
    """

    operator: str
    spread_s: float
    time_ms: int


def seal_drill(svid: Svid, spread_s: float, now: float) -> bytes:
    """Return the order, signed by the operator ``svid`` at ``now`` (unix seconds).

    Raises:
        IdentityError: ``svid`` is no operator's (code BM4123).
    """
    if not svid.id.operator:
        raise _not_an_operator(str(svid.id))
    return seal_signed(svid, PURPOSE, pack(round(min(spread_s, MAX_SPREAD_S) * 1000)), now)


def open_drill(data: bytes, verifier: Verifier, now: float, *, after_ms: int = 0) -> Drill:
    """Return the order that ``data`` is, or refuse it.

    Args:
        data: from anybody.
        verifier: the roots and revocations that are believed.
        now: unix seconds.
        after_ms: when the last order was given.

    Raises:
        RemoteProtocolError: malformed (codes BM4101 to BM4103), or not later than the last (BM4124).
        IdentityError: by no operator who counts (BM4003 to BM4009, BM4123), or too old (BM4104).
    """
    signed = open_signed(data, PURPOSE, verifier, now, max_age=MAX_AGE_S, max_size=MAX_ORDER)
    if not signed.signer.id.operator:
        raise _not_an_operator(str(signed.signer.id))
    if not signed.signer.scope.everything:
        raise IdentityError(f"{signed.signer.id} has a scope, and a drill is for everybody", code="BM4123")
    reader = FieldReader(signed.body, 1, max_size=16, what="drill")
    spread_ms = reader.integer()
    reader.end()
    if signed.time_ms <= after_ms:
        raise RemoteProtocolError("a drill that was heeded before", code="BM4124")
    return Drill(signed.signer.id.operator, min(spread_ms / 1000, MAX_SPREAD_S), signed.time_ms)


def _not_an_operator(who: str) -> IdentityError:
    return IdentityError(
        f"{who} is no operator and may order no drill",
        code="BM4123",
        hint="sign with the key of an operator: --as NAME",
    )

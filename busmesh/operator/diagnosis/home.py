"""What the home of an operator or observer holds: roots, identities, a login."""

from __future__ import annotations

from busmesh.errors import BusmeshError
from busmesh.identity.alarms import DAY_S, THRESHOLDS, late, threshold
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle, key_identifier
from busmesh.operator.diagnosis.verdict import Check, failed, ok, warning
from busmesh.operator.wording import counted, lasting

#: A login that ends within so long should be replaced.
ENDS_SOON_S = 7 * DAY_S


def check_roots(bundle: TrustBundle, now: float) -> Check:
    """Look at the roots of the mesh: the first one to end is what counts."""
    first = min(bundle.roots, key=lambda root: root.not_valid_after_utc)
    name, ends = key_identifier(first).hex(), first.not_valid_after_utc.timestamp()
    issues, name, rotate = name == bundle.issuer, name[:12], "busmesh identity rotate"
    if now >= ends:
        text = f"root {name} of the mesh has ended"
        return failed("home", text, rotate) if issues else warning("home", text, rotate)
    days = threshold(ends - now, THRESHOLDS)
    if days is not None:
        return warning("home", f"root {name} of the mesh ends in {lasting(ends - now)}", rotate)
    return ok(
        "home", f"{counted(len(bundle.roots), 'root', 'roots')} of the mesh, good for {lasting(ends - now)}"
    )


def check_operator(name: str, svid: Svid, refusal: BusmeshError | None, now: float) -> Check:
    """Look at the identity of an operator whose key is in the home.

    Args:
        name: the operator's.
        svid: as stored.
        refusal: why the mesh does not believe it; None if it does.
        now: unix seconds.
    """
    issue = f"in the home of the authority: busmesh identity issue {name}"
    if now >= svid.not_after:
        return failed("home", f"the SVID of operator {name} has ended", issue)
    if refusal is not None:
        return failed("home", f"operator {name} is not believed: {refusal.message}", issue, refusal.code)
    left = lasting(svid.not_after - now)
    if late(svid.issued, svid.not_after, now):
        return warning("home", f"the SVID of operator {name} ends in {left}", issue)
    return ok("home", f"operator {name} may publish for {left}")


def check_login(holder: str, expires: float | None, now: float) -> Check:
    """Look at the login to the bus that this home shows."""
    who = holder or "this home"
    renew = "make another in the home of the authority: busmesh bus login, or busmesh identity issue"
    if expires is None:
        return ok("home", f"the login of {who} does not end")
    left = expires - now
    if left <= 0:
        return failed("home", f"the login of {who} has ended", renew)
    if left <= ENDS_SOON_S:
        return warning("home", f"the login of {who} ends in {lasting(left)}", renew)
    return ok("home", f"the login of {who} is good for {lasting(left)}")

"""The trust log: what the mesh believes, as signed entries that everybody keeps and checks alone.

An entry is a trust bundle that follows the one before it, signed by a root that is believed already; or a
revocation, signed by an operator (of workloads) or by a root (of anybody). Entries need no order of their
own: a bundle counts if its number is the next, a revocation whenever it comes. So a log that was lost,
doubled or filled with junk does no harm, and whoever may write to it can give back what it holds.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import Enum

from busmesh.errors import IdentityError, RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.fields import FieldReader, pack
from busmesh.identity.revocation import Revocation, workload_namespace
from busmesh.identity.rooted import open_rooted, seal_rooted
from busmesh.identity.scope import EVERYTHING, Scope
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier

BUNDLE, REVOCATION = "trust.bundle", "trust.revocation"
MAX_ENTRY = 80 * 1024
#: Bundles and revocations kept; what comes after is refused, so that nobody's disk fills.
MAX_ENTRIES = 20_000
_BUNDLE, _BY_OPERATOR, _BY_ROOT = 1, 2, 3


class Taken(Enum):
    """What became of an entry."""

    BUNDLE = "the trust bundle changed"
    REVOCATION = "somebody was revoked"
    KNOWN = "nothing new"
    EARLY = "a bundle that does not follow yet"


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry whose signature is proven.

    Attributes:
        bundle: None if it is a revocation.
        revocation: None if it is a bundle.
    """

    kind: int
    bundle: TrustBundle | None
    revocation: Revocation | None


def seal_bundle(ca: CertificateAuthority, bundle: TrustBundle, now: float) -> bytes:
    """Return the entry that puts ``bundle`` in force; ``ca`` is a root that was believed before it."""
    return pack(_BUNDLE, seal_rooted(ca, BUNDLE, bundle.to_pem(), now))


def seal_revocation(signer: Svid | CertificateAuthority, revocation: Revocation, now: float) -> bytes:
    """Return the entry that revokes, signed by an operator or by the root.

    Raises:
        IdentityError: the signer may not revoke this (code BM4121).
    """
    if isinstance(signer, CertificateAuthority):
        return pack(_BY_ROOT, seal_rooted(signer, REVOCATION, revocation.encode(), now))
    _check_right(signer.id.operator, revocation, signer.id.mesh)
    return pack(_BY_OPERATOR, seal_signed(signer, REVOCATION, revocation.encode(), now))


def open_entry(entry: bytes, verifier: Verifier, now: float) -> Opened:
    """Return what ``entry`` says, if somebody signed it who may.

    Args:
        entry: from the bus or the disk; believed in nothing.
        verifier: the roots and revocations believed so far.
        now: unix seconds.

    Raises:
        RemoteProtocolError: malformed (codes BM4101 to BM4103, BM4120).
        IdentityError: not signed by a root or an operator of the mesh (BM4003 to BM4008), by one who was
            revoked (BM4009) or may not revoke this (BM4121), or of the future (BM4104).
    """
    reader = FieldReader(entry, 2, max_size=MAX_ENTRY, what="entry of the trust log")
    kind, envelope = reader.integer(), reader.binary()
    reader.end()
    mesh = verifier.bundle.mesh
    if kind == _BUNDLE:
        pem = open_rooted(envelope, BUNDLE, verifier.bundle, now, max_size=MAX_ENTRY)
        return Opened(kind, TrustBundle.from_pem(pem, mesh), None)
    if kind == _BY_ROOT:
        body = open_rooted(envelope, REVOCATION, verifier.bundle, now, max_size=MAX_ENTRY)
        return Opened(kind, None, Revocation.decode(body, mesh))
    if kind != _BY_OPERATOR:
        raise RemoteProtocolError(f"an entry of the trust log of kind {kind}", code="BM4103")
    signed = open_signed(envelope, REVOCATION, verifier, now, at="signing")
    signer = signed.signer
    if signer.through is not None:
        raise IdentityError(f"{signer.id} counts no more and may not revoke", code="BM4009")
    if not signer.id.operator:
        raise _no_right(str(signer.id))
    revocation = Revocation.decode(signed.body, mesh)
    if revocation.at_ms != signed.time_ms:
        raise RemoteProtocolError("a revocation that was not made when it was signed", code="BM4120")
    _check_right(signer.id.operator, revocation, mesh, signer.scope)
    return Opened(kind, None, revocation)


def _check_right(operator: str, revocation: Revocation, mesh: str, scope: Scope = EVERYTHING) -> None:
    """An operator may revoke workloads of its namespaces, by name; everybody else is the root's affair."""
    if not operator:
        raise _no_right("somebody who is no operator")
    if revocation.target:  # a serial number alone does not tell whose it is
        namespace = workload_namespace(revocation.target, mesh)
        if namespace and (scope.namespaces is None or namespace in scope.namespaces):
            return
    raise _no_right(f"operator {operator}", revocation.name)


def _no_right(who: str, what: str = "anybody") -> IdentityError:
    return IdentityError(
        f"{who} may not revoke {what}",
        code="BM4121",
        hint="operators, authorities and serial numbers without a SPIFFE ID are revoked where the root is, "
        "in the home of the authority",
    )


class TrustState:
    """What is believed, as entries add to it. Pure: the actor around it reads and stores.

    Args:
        verifier: begins with the bundle on disk; its bundle and revocations are what changes.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        #: Entries that counted, in the order in which they came, and until when they are worth keeping.
        self._entries: dict[bytes, tuple[bytes, float]] = {}

    def __repr__(self) -> str:
        bundle, count = self.verifier.bundle, len(self._entries)
        return f"<TrustState version={bundle.version} {self.verifier.revocations!r} entries={count}>"

    def holds(self, entry: bytes) -> bool:
        return entry_key(entry) in self._entries

    @property
    def entries(self) -> dict[bytes, bytes]:
        """Every entry that is kept, by its hash."""
        return {key: entry for key, (entry, _) in self._entries.items()}

    def take(self, entry: bytes, now: float) -> Taken:
        """Believe ``entry``, if it proves what it says and is news.

        Raises:
            RemoteProtocolError, IdentityError: as `open_entry` does.
        """
        key = entry_key(entry)
        if key in self._entries:
            return Taken.KNOWN
        opened = open_entry(entry, self.verifier, now)
        if opened.bundle is not None:
            return self._follow(key, entry, opened.bundle)
        revocation = opened.revocation
        assert revocation is not None, "it is one or the other"
        if len(self._entries) >= MAX_ENTRIES:
            return Taken.KNOWN
        news = self.verifier.revocations.add(revocation, now)
        if news or opened.kind == _BY_ROOT:  # what a root repeats outlives the root of an operator
            self._entries[key] = (entry, revocation.until_ms / 1000)
        return Taken.REVOCATION if news else Taken.KNOWN

    def _follow(self, key: bytes, entry: bytes, bundle: TrustBundle) -> Taken:
        held = self.verifier.bundle.version
        if bundle.version > held + 1:
            return Taken.EARLY
        self._entries[key] = (
            entry,
            math.inf,
        )  # also an old one: others may need it to get from there to here
        if bundle.version <= held:
            return Taken.KNOWN
        self.verifier.trust(bundle)
        return Taken.BUNDLE

    def expire(self, now: float) -> bool:
        """Forget revocations that say nothing any more; say whether there were any."""
        if not self.verifier.revocations.expire(now):
            return False
        self._entries = {key: kept for key, kept in self._entries.items() if kept[1] > now}
        return True


def entry_key(entry: bytes) -> bytes:
    """Return the hash by which an entry is known."""
    return hashlib.sha256(entry).digest()

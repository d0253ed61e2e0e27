"""Replacing the root in three steps, each of which leaves the mesh whole.

1. **Add**: the next root joins everybody's trust bundle. The present one signs that, and goes on issuing.
2. **Switch**: the next root issues. Every agent fetches an SVID under it; those of the old one still count.
3. **Remove**: the old root leaves the bundle, and its key is destroyed. It vouches for the policy log up to
   now and for nothing else.

Before each step every agent that answers must have done the one before. What stands in the home says how far
it has come, so whoever was interrupted starts again where they stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import Enum

from busmesh.errors import UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.store import Home
from busmesh.identity.trust import RetiredRoot, TrustBundle, key_identifier
from busmesh.identity.verify import Verified
from busmesh.members.announcement import Announcement
from busmesh.names import SpiffeId


class Step(Enum):
    """What is done next, in words for people."""

    ADD = "add the next root to everybody's trust bundle"
    SWITCH = "issue SVIDs by the next root"
    REMOVE = "remove the old root and destroy its key"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a rotation has come.

    Attributes:
        step: what is next; None if the last one only has to be tidied up.
        under_way: whether a rotation was begun and has not ended.
    """

    step: Step | None
    under_way: bool


def position(bundle: TrustBundle, root: str, following: str | None, retiring: str | None) -> Position:
    """Return how far a rotation has come.

    Args:
        bundle: in the home.
        root: key identifier of the root that issues here, in hex.
        following: of the next root, if there is one.
        retiring: of the one that issued before, if its key is still there.
    """
    if following is not None and following != root:
        if bundle.root(following) is None:
            return Position(Step.ADD, under_way=True)
        return Position(Step.SWITCH, under_way=True)
    if retiring is not None and retiring != root:
        return Position(Step.REMOVE if bundle.root(retiring) is not None else None, under_way=True)
    return Position(Step.ADD, under_way=following is not None)


def identifier(ca: CertificateAuthority) -> str:
    """Return the key identifier of a root in hex."""
    return key_identifier(ca.certificate).hex()


class Rotation:
    """The rotation in one home. It changes files; publishing the bundle is for its caller.

    Args:
        home: of the authority.
        mesh: the mesh's name.

    Raises:
        NotFound, IdentityError: the home holds no root, or nothing that can be trusted.
    """

    def __init__(self, home: Home, mesh: str) -> None:
        self._home = home
        self._mesh = mesh
        self.home_position()

    def __repr__(self) -> str:
        return f"<Rotation {self._home!r} {self.home_position()}>"

    @property
    def bundle(self) -> TrustBundle:
        return self._home.trust(self._mesh)

    @property
    def root(self) -> CertificateAuthority:
        """The root that issues here, which signs every change of the bundle."""
        return self._home.authority(self._mesh)

    def home_position(self) -> Position:
        following = self._home.other_authority(self._mesh, "next")
        retiring = self._home.other_authority(self._mesh, "retiring")
        return position(
            self.bundle,
            identifier(self.root),
            None if following is None else identifier(following),
            None if retiring is None else identifier(retiring),
        )

    def done_before(self, step: Step | None, member: Announcement, shown: Verified) -> bool:
        """Say whether an agent is ready for ``step``."""
        ready = member.trust >= self.bundle.version
        return ready and (step is not Step.REMOVE or shown.issuer == self.bundle.issuer)

    def add(self, now: float) -> None:
        following = self._home.other_authority(self._mesh, "next")
        if following is None:
            following = CertificateAuthority.create(self._mesh, now)
            self._home.save_next_authority(following)  # before anybody trusts it
        bundle = self.bundle
        if following.certificate not in bundle.roots:
            roots = (*bundle.roots, following.certificate)
            self._home.save_trust(replace(bundle, roots=roots, version=bundle.version + 1))

    def switch(self, now: float) -> None:
        following = self._home.other_authority(self._mesh, "next")
        if following is None:
            raise UsageError("there is no next root to switch to", code="BM4130")
        bundle = self.bundle
        if bundle.issuer != identifier(following):
            others = (root for root in bundle.roots if root != following.certificate)
            roots = (following.certificate, *others)
            self._home.save_trust(replace(bundle, roots=roots, version=bundle.version + 1))
        for name in self._home.operators():  # first, since who is interrupted does the whole step again
            self._home.save_operator(following.issue_svid(SpiffeId(self._mesh, operator=name), now))
        self._home.switch_authority(self._mesh)

    def remove(self, through: int, digest: str) -> None:
        """Remove the old root; it goes on vouching for the policy log up to ``through`` with ``digest``."""
        if self._home.other_authority(self._mesh, "next") is not None:
            self._home.switch_authority(self._mesh)  # it was interrupted before its last write
        retiring = self._home.other_authority(self._mesh, "retiring")
        bundle = self.bundle
        if retiring is None or retiring.certificate not in bundle.roots:
            return
        roots = tuple(root for root in bundle.roots if root != retiring.certificate)
        retired = (*bundle.retired, RetiredRoot(retiring.certificate, through, digest))
        self._home.save_trust(TrustBundle(self._mesh, roots, bundle.version + 1, retired))

    def tidy(self) -> None:
        """Destroy the old root's key, once nobody trusts it any more."""
        self._home.forget_retiring()

    def take(self, step: Step, *, through: int, digest: str) -> TrustBundle:
        """Do ``step`` in the home and return the bundle that is to be published."""
        if step is Step.ADD:
            self.add(time.time())
        elif step is Step.SWITCH:
            self.switch(time.time())
        else:
            self.remove(through, digest)
        return self.bundle

"""What the authority works with: its root, the roots to hand out, grants, register, an SVID of its own."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from random import Random

from busmesh.actors.actor import Actor
from busmesh.authority.founding import renew_operators
from busmesh.authority.locking import grant_logins
from busmesh.authority.register import Register
from busmesh.errors import BusmeshError, NotFound
from busmesh.identity.alarms import Alarms
from busmesh.identity.jointoken import Grant
from busmesh.identity.store import Home
from busmesh.identity.svid import renewal_time
from busmesh.identity.trust import TrustBundle, key_identifier
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId, Subjects

log = logging.getLogger(__name__)

OPERATORS_EVERY_S = 3600.0


class Keys:
    """Reads the home, and reads it again when somebody changed it.

    Args:
        home: where root, roots and grants are kept.
        spiffe_id: the authority's own, whose SVID signs renewals.
        now: unix seconds.
        rng: jitter of the own renewal.

    Raises:
        NotFound: the home has no root or no trust bundle.
        IdentityError: something in it cannot be trusted or read.
    """

    def __init__(self, home: Home, spiffe_id: SpiffeId, now: float, rng: Random) -> None:
        self._home = home
        self._id = spiffe_id
        self.register = Register(home, Subjects(spiffe_id.mesh))
        self._rng = rng
        self.ca = home.authority(spiffe_id.mesh)
        self.verifier = Verifier(home.trust(spiffe_id.mesh))
        self.grants: Mapping[str, Grant] = home.grants()
        self._operators_at = now + OPERATORS_EVERY_S
        self._read_accounts()
        self._issue_own(now)

    def __repr__(self) -> str:
        return f"<Keys of {self._id} grants={len(self.grants)} roots={len(self.bundle.roots)}>"

    @property
    def bundle(self) -> TrustBundle:
        return self.verifier.bundle

    @property
    def issues(self) -> bool:
        """Whether this is the root that the mesh issues under now; else another authority answers."""
        return key_identifier(self.ca.certificate).hex() == self.bundle.issuer

    def reload(self) -> None:
        """Read roots and grants again; what cannot be read leaves the old ones in force.

        Raises:
            BusmeshError: what is wrong with them.
        """
        grants = self._home.grants()
        bundle = self._home.trust(self._id.mesh)
        ca = self._home.authority(self._id.mesh)
        self._tell_changes(grants)
        self.grants = grants
        self._read_accounts()
        if bundle != self.bundle and bundle.version >= self.bundle.version:
            self.verifier.trust(bundle)
            log.info("trust bundle %d has %d roots", bundle.version, len(bundle.roots))
        if ca.certificate != self.ca.certificate:
            self.ca = ca
            log.info("the root was replaced: issuing by another from now on")
            self._issue_own(time.time())

    def _tell_changes(self, grants: Mapping[str, Grant]) -> None:
        for token_id in sorted(self.grants.keys() | grants.keys()):
            before, after = self.grants.get(token_id), grants.get(token_id)
            if after is None:
                log.info("join token %s was withdrawn: it lets nobody in any more", token_id)
            elif after != before:
                what = "made" if before is None else "changed"
                whom = f"{after.service} in {after.namespace}"
                log.info("join token %s was %s: it lets in %s", token_id, what, whom)

    def keep_trust(self) -> None:
        """Store the bundle that the trust log brought, unless the home has a newer one."""
        if self._home.trust(self._id.mesh).version < self.bundle.version:
            self._home.save_trust(self.bundle)

    def renew_own(self, now: float) -> None:
        """Issue the authority's next SVID if its present one is past half of its life."""
        if now >= self._renew_at:
            self._issue_own(now)

    def renew_operators(self, now: float) -> None:
        """Look once an hour whether an operator in the home needs a new SVID; a person would forget to.

        Raises:
            IdentityError: a stored one cannot be trusted or read.
        """
        if now >= self._operators_at and self.issues:
            self._operators_at = now + OPERATORS_EVERY_S
            revocations = self.verifier.revocations
            renew_operators(self._home, self.ca, now, revocations)
            if self.register.accounts is not None:
                grant_logins(self._home, self._id.mesh, self.register.accounts, revocations)

    def look_at_operators(self) -> None:
        """Do not wait for the hour to be over: one of them may have been revoked."""
        self._operators_at = -math.inf

    def _read_accounts(self) -> None:
        try:
            self.register.accounts = self._home.bus_accounts()
        except NotFound:
            self.register.accounts = None

    def _issue_own(self, now: float) -> None:
        self.svid = self.ca.issue_svid(self._id, now)
        self._renew_at = renewal_time(self.svid.issued, self.svid.not_after, self._rng)


class KeyKeeper(Actor[None]):
    """Follows the home: a new grant counts, and a deleted one lets nobody in, within one interval."""

    interval = 1.0
    capacity = 1

    def __init__(self, keys: Keys) -> None:
        super().__init__("keys")
        self._keys = keys
        self._problem = ""
        self._alarms = Alarms()

    async def receive(self, message: None) -> None:
        self._look()

    async def tick(self) -> None:
        self._look()

    def _look(self) -> None:
        now = time.time()
        self._keys.renew_own(now)
        try:
            self._keys.reload()
            self._keys.renew_operators(now)
            self._keys.register.save()
        except BusmeshError as error:
            if str(error) != self._problem:  # every two seconds would say no more
                log.error("the authority goes on with what it has: %s", error)
            self._problem = str(error)
        else:
            self._problem = ""
        for root, days in self._alarms.due(self._keys.bundle, now):
            name = key_identifier(root).hex()[:12]
            log.warning("root %s ends in less than %d days: busmesh identity rotate", name, days)

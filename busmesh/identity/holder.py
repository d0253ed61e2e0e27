"""The identity that a process holds at this moment; renewal replaces what is inside."""

from __future__ import annotations

from busmesh.errors import IdentityError
from busmesh.identity.handshake import TlsContext
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId

#: Certificates remembered: more than there are sessions, which end when theirs is revoked.
CAPACITY = 16384


class Identity:
    """An SVID, whom to believe, and the TLS context made of both.

    Everybody who signs, verifies or shakes hands reads it at the moment of use, so a renewal needs to tell
    nobody.
    """

    def __init__(self, svid: Svid, bundle: TrustBundle) -> None:
        self.svid = svid
        self.verifier = Verifier(bundle, capacity=CAPACITY)
        self.tls = TlsContext(svid, self.verifier)

    @property
    def id(self) -> SpiffeId:
        return self.svid.id

    @property
    def bundle(self) -> TrustBundle:
        return self.verifier.bundle

    @property
    def outdated(self) -> bool:
        """Whether the mesh issues under another root by now, so that a new SVID should be fetched soon."""
        return self.svid.issuer != self.bundle.issuer

    def usable(self, now: float) -> bool:
        """Say whether others still believe this identity: not expired, not revoked, its root not removed."""
        try:
            self.verifier.certificate(self.svid.der, now)
        except IdentityError:
            return False
        return True

    @property
    def revoked(self) -> bool:
        svid = self.svid
        hit = self.verifier.revocations.hitting(svid.id, svid.certificate.serial_number, svid.not_before)
        return hit is not None

    def ends(self, fingerprint: str) -> bool:
        """Say whether a session whose peer proved itself by this certificate must end.

        It must if the certificate was revoked or its root removed; and if nothing is remembered of it, since
        then nobody can say, and a new handshake settles it.
        """
        known = self.verifier.known(fingerprint)
        if known is None or self.bundle.root(known.issuer) is None:
            return True
        return self.verifier.revocations.hitting(known.id, known.serial, known.not_before) is not None

    def renew(self, svid: Svid, bundle: TrustBundle) -> None:
        """Use ``svid`` and ``bundle`` from now on; an older bundle than the one held changes nothing."""
        if bundle.version > self.verifier.bundle.version:
            self.verifier.trust(bundle)
        self.svid = svid
        self.tls = TlsContext(svid, self.verifier)

    def __repr__(self) -> str:
        return f"<Identity {self.svid.id}>"

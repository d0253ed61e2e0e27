"""The identity that a process holds at this moment; renewal replaces what is inside."""

from __future__ import annotations

from busmesh.identity.handshake import TlsContext
from busmesh.identity.svid import Svid
from busmesh.identity.trust import TrustBundle
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId


class Identity:
    """An SVID, whom to believe, and the TLS context made of both.

    Everybody who signs, verifies or shakes hands reads it at the moment of use, so a renewal needs to tell
    nobody.
    """

    def __init__(self, svid: Svid, bundle: TrustBundle) -> None:
        self.svid = svid
        self.verifier = Verifier(bundle)
        self.tls = TlsContext(svid, self.verifier)

    @property
    def id(self) -> SpiffeId:
        return self.svid.id

    def renew(self, svid: Svid, bundle: TrustBundle) -> None:
        """Use ``svid`` and ``bundle`` from now on."""
        self.verifier.trust(bundle)
        self.svid = svid
        self.tls = TlsContext(svid, self.verifier)

    def __repr__(self) -> str:
        return f"<Identity {self.svid.id}>"

"""Who may do what, asked at the instance that is called: once the session has proven who calls.

There a caller cannot get round it, and nothing that it writes, no header, says who it is. The caller hears
Istio's words and no more; which rule it was is for those who operate the mesh.
"""

from __future__ import annotations

import time

from busmesh.decide.authz.authenticate import Tokens
from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.authz.engine import DENIED_BODY, Decision
from busmesh.decide.request import RequestHead
from busmesh.relay.inbound.peer import Peer
from busmesh.relay.inbound.work import Observer
from busmesh.wire.http import Refusal, WireRequest

#: A decision's code -> flags and code of the refusal, and whether its reason is told to the caller.
_REFUSALS = {
    "denied": ("RBAC", "rbac_access_denied", False),
    "not_allowed": ("RBAC", "rbac_access_denied", False),
    "path": ("RBAC", "ambiguous_path", True),
    "method": ("RBAC", "ambiguous_method", True),
    "token": ("JWT", "token_invalid", True),
    "no_token": ("JWT", "token_missing", False),
}
_MISSING = "a token is needed: Authorization: Bearer ..."


class Access:
    """What the policies in force say of who may do what at this instance.

    Args:
        authorizer: compiled from the documents about it.
        tokens: verifies end users' tokens.
        observer: hears of whom it refuses.
    """

    __slots__ = ("_observer", "_tokens", "authorizer")

    def __init__(self, authorizer: Authorizer, tokens: Tokens, observer: Observer) -> None:
        self.authorizer = authorizer
        self._tokens = tokens
        self._observer = observer

    def admit(self, peer: Peer, request: WireRequest) -> WireRequest | Refusal:
        """Return the request as the application may get it, or why it does not."""
        head = RequestHead.from_block(request.method, request.target, request.headers)
        decision = self.authorizer.check(peer.session.peer, head, self._tokens, time.time())
        if not decision.allowed or decision.shadow is not None or decision.audits:
            self._observer.judged(peer, request, decision)
        if not decision.allowed:
            return refusal_of(decision)
        edit = decision.edit
        if edit is None:
            return request
        return request._replace(target=edit.target(request.target), headers=edit.block(request.headers))

    def __repr__(self) -> str:
        return f"<Access {self.authorizer!r}>"


def refusal_of(decision: Decision) -> Refusal:
    """Return what a caller hears of a decision against its request."""
    flags, code, told = _REFUSALS[decision.code]
    words = _MISSING if decision.code == "no_token" else DENIED_BODY
    return Refusal(False, decision.status, flags, code, decision.reason if told else words)

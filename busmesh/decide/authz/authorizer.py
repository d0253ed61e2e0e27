"""All that protects one instance: tokens first, then policies.

Made once per revision of the policies, and only if one of them is about this instance; what depends on the
caller alone is worked out at its first request and kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from busmesh.decide.authz.authenticate import Authenticator, Refused, Tokens
from busmesh.decide.authz.engine import Audits, Decision, Engine
from busmesh.decide.authz.facts import Claims, Facts
from busmesh.decide.authz.pathsets import NO_PATHS, PathSets
from busmesh.decide.authz.policy import AccessPolicy
from busmesh.decide.request import RequestHead
from busmesh.names import ServiceName, SpiffeId

#: Callers for whom the policies are kept settled. Each has a certificate of the mesh, but there may be many.
MAX_CALLERS = 1024


class _Caller:
    """The policies as one caller meets them."""

    __slots__ = ("audits", "enforced", "shadow", "simple")

    def __init__(self, policies: Sequence[AccessPolicy], caller: SpiffeId) -> None:
        enforced = [policy for policy in policies if not policy.dry_run]
        self.enforced = Engine(enforced, caller)
        self.shadow = Engine(policies, caller) if len(enforced) < len(policies) else None
        self.audits = Audits(enforced, caller)
        #: The answer to everything, if there is one and nothing is to be counted.
        self.simple = self.enforced.constant if self.shadow is None and not self.audits else None


class Authorizer:
    """Whether this instance serves a request.

    Attributes:
        policies: all that apply to this instance.
        authenticator: None if no RequestAuthentication does.
    """

    __slots__ = ("_callers", "_paths", "authenticator", "policies")

    def __init__(
        self,
        policies: Sequence[AccessPolicy],
        authenticator: Authenticator | None = None,
        paths: PathSets = NO_PATHS,
    ) -> None:
        """``paths`` are the sets to which the policies refer by number."""
        self.policies = tuple(policies)
        self._paths = paths
        self.authenticator = authenticator
        self._callers: dict[ServiceName | SpiffeId, _Caller] = {}

    def check(self, caller: SpiffeId, head: RequestHead, tokens: Tokens, now: float) -> Decision:
        """Decide on a request.

        Args:
            caller: proven by the session.
            head: of the request, checked to be well-formed.
            tokens: verifies tokens; not touched without a RequestAuthentication.
            now: seconds since 1970, for the times in tokens.
        """
        if self.authenticator is None:
            return self.decide(caller, head, None)
        found = self.authenticator.authenticate(head, tokens, now)
        if isinstance(found, Refused):
            return Decision(False, 401, "token", found.policy, -1, found.reason)
        decision = self.decide(caller, head, found.claims)
        return decision if found.edit is None else decision._replace(edit=found.edit)

    def decide(self, caller: SpiffeId, head: RequestHead, claims: Claims | None) -> Decision:
        """Decide on a request whose token, if it has one, is verified."""
        known = self._callers.get(caller.service or caller) or self._settle(caller)
        if known.simple is not None:
            return known.simple
        facts = Facts(head, claims, self._paths)
        decision = known.enforced.decide(facts)
        if decision.token_asked and claims is None and self.authenticator is not None:
            # It might be served with a token, so the caller is asked for one (RFC 9110 section 15.5.2).
            decision = decision._replace(status=401, code="no_token")
        if known.shadow is not None:
            decision = decision._replace(shadow=known.shadow.decide(facts))
        if known.audits:
            decision = decision._replace(audits=known.audits.matching(facts))
        return decision

    def _settle(self, caller: SpiffeId) -> _Caller:
        if len(self._callers) >= MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        known = self._callers[caller.service or caller] = _Caller(self.policies, caller)
        return known

    def __repr__(self) -> str:
        return (
            f"<Authorizer policies={len(self.policies)} callers={len(self._callers)}"
            f" tokens={self.authenticator is not None}>"
        )

"""Dry runs: a revision that an operator thinks of, held against the one in force on this agent's requests.

It is compiled as a revision is and asked beside it; no request is ever routed by it. It ends when the
operator ends it, when its time is up, or when the policies in force change, because it was made for others.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from busmesh.actors.actor import Actor
from busmesh.bus.bus import Bus
from busmesh.decide.dryrun import Comparison
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, Target
from busmesh.errors import BusmeshError, BusUnavailable
from busmesh.identity.dryruns import DryRun, open_dry_run
from busmesh.identity.holder import Identity
from busmesh.identity.signed import seal_signed
from busmesh.members.dryreport import PURPOSE, DryReport, Stand, encode, report_of
from busmesh.names import ServiceName, Subjects
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.revision import PolicySet, fold
from busmesh.relay.destination.upstream import Knowledge
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.outbound.outbound import Beside
from busmesh.telemetry.tally import Tally

log = logging.getLogger(__name__)

REPORT_S = 1.0
#: Requests a second that are compared: each costs some 10 us, and one that splits or rewrites more.
PER_SECOND = 500
#: Dry runs that ended and are not begun again, though the bus should repeat how they began.
MAX_ENDED = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator begins or ends a dry run, or so somebody says."""

    payload: bytes


class DryRuns(Actor[Asked]):
    """Owns the dry run of this agent; there is one at a time.

    Args:
        bus: where reports go.
        subjects: of the mesh.
        identity: whose roots must vouch for the operators, and which signs reports.
        caller: this instance, as policies see it.
        current: returns the policy set in force.
        upstreams: whom this agent knows.
        install: puts whoever looks on into the request path; None for nobody.
        rng: where splits begin.
    """

    interval = REPORT_S
    capacity = 64

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        identity: Identity,
        caller: Caller,
        *,
        current: Callable[[], PolicySet],
        upstreams: Upstreams,
        install: Callable[[Beside | None], None],
        rng: Random,
    ) -> None:
        super().__init__("dry runs")
        self._bus = bus
        self._identity = identity
        self._subject = subjects.dry_report(caller.service, identity.id.instance)
        self._caller = caller
        self._current = current
        self._upstreams = upstreams
        self._install = install
        self._rng = rng
        self._name = ""
        self._until = 0.0
        self._comparison: Comparison | None = None
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._refused = Tally(log, "dry runs")
        self.failed = 0

    def on_dry_run(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message from the bus."""
        self.mailbox.tell(Asked(payload), len(payload))

    async def receive(self, message: Asked) -> None:
        try:
            dry_run = open_dry_run(message.payload, self._identity.verifier, time.time())
        except BusmeshError as error:
            self._refused.add(error)
            return
        if dry_run.revision is None:
            if dry_run.id == self._name and self._comparison is not None:
                self._end("ended", "", "by the operator")
            self._remember(dry_run.id)
        elif dry_run.id != self._name and dry_run.id not in self._ended:
            self._begin(dry_run)

    async def tick(self) -> None:
        if self._comparison is None:
            return
        if time.monotonic() >= self._until:
            self._end("ended", "", "its time is up")
        else:
            self._report("comparing")

    def policies_changed(self) -> None:
        """Hear, before the next request, that another set is in force."""
        if self._comparison is not None:
            self._end("ended", "BM2314", "another revision came into force meanwhile")

    def _begin(self, dry_run: DryRun) -> None:
        assert dry_run.revision is not None, "what ends is no beginning"
        if self._comparison is not None:
            self._publish(report_of(dry_run.id, "refused", None, "BM2315", "another dry run is under way"))
            return
        self._name = dry_run.id
        try:
            after = fold(self._current(), dry_run.revision)
            snapshot = compile_set(after, self._caller, rng=self._rng)
        except BusmeshError as error:
            self._report("refused", error.code, str(error.message))
            self._remember(dry_run.id)
            return
        self._until = time.monotonic() + dry_run.ends_ms / 1000 - time.time()
        for service in self._upstreams.services():
            for referenced in snapshot.referenced(service):
                if self._upstreams.takes(referenced):
                    self._upstreams.upstream(referenced)
        self._comparison = Comparison(snapshot.service, self._reaches, PER_SECOND)
        self._install(self._look)
        log.info("a dry run of revision %d by %s begins", dry_run.revision.number, dry_run.revision.author)
        self._report("comparing")

    def _look(self, service: ServiceName, head: RequestHead, rule: Rule | None) -> None:
        """Look on while a request is routed; whatever goes wrong here is not the request's affair."""
        if self._comparison is None:
            return
        try:
            self._comparison.look(service, head, rule, time.monotonic())
        except Exception:  # a trial must not cost a request
            self.failed += 1
            log.exception("a dry run failed")
            self._install(None)

    def _reaches(self, target: Target) -> bool:
        if not self._upstreams.takes(target.service):
            return False
        upstream = self._upstreams.upstream(target.service)
        if upstream.knowledge is Knowledge.ASKING:
            return True
        return any(
            endpoint.ready
            and not endpoint.suspect
            and endpoint.weight > 0
            and all(endpoint.labels.get(key) == value for key, value in target.labels.items())
            for endpoint in upstream.endpoints.values()
        )

    def _end(self, stand: Stand, code: str, reason: str) -> None:
        self._install(None)
        self._report(stand, code, reason)
        log.info("the dry run is over: %s; %s", reason, self._comparison)
        self._remember(self._name)
        self._comparison = None

    def _remember(self, name: str) -> None:
        self._ended[name] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)

    def _report(self, stand: Stand, code: str = "", reason: str = "") -> None:
        self._publish(report_of(self._name, stand, self._comparison, code, reason))

    def _publish(self, report: DryReport) -> None:
        sealed = seal_signed(self._identity.svid, PURPOSE, encode(report), time.time())
        try:
            self._bus.publish(self._subject, sealed)
        except BusUnavailable:
            return  # the next one says all

    def statistics(self) -> dict[str, object]:
        found: dict[str, object] = {"under_way": self._comparison is not None, "forged": self._refused.count}
        if self._comparison is not None:
            found |= self._comparison.statistics()
        return found

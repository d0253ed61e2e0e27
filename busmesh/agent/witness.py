"""What happened to a request that somebody at the admin endpoint wants explained.

Whoever asks is given a trace id to send with a request. All else passes unseen, so no caller from elsewhere
can have anything written down, and the request path pays one look at an empty table.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from busmesh.policy.explain import Question, explain
from busmesh.policy.explaininstances import instances_of
from busmesh.policy.explainsettings import BALANCING, balancer_name
from busmesh.relay.outbound.shadow import Shadow
from busmesh.relay.tries.exchange import Exchange
from busmesh.telemetry.tracecontext import TRACE_ID

if TYPE_CHECKING:
    from busmesh.policy.compile import Caller
    from busmesh.policy.revision import PolicySet
    from busmesh.relay.destination.upstreams import Upstreams

#: Requests that are awaited or written down.
MAX_REQUESTS = 16
#: Seconds after which nobody will ask any more.
KEPT_S = 60.0


@dataclass(slots=True)
class Try:
    """One try: who could have been asked at that moment, who was, and what came of it."""

    exchange: Exchange | None
    began: float
    destination: str
    why: str
    candidates: list[dict[str, object]]
    instance: str = ""
    status: int = 0
    flags: str = ""
    ms: float = 0.0

    def view(self) -> dict[str, object]:
        return {
            "destination": self.destination,
            "instance": self.instance,
            "status": self.status,
            "flags": self.flags,
            "ms": self.ms,
            "why": self.why,
            "candidates": self.candidates,
        }


@dataclass(slots=True)
class Record:
    """One request."""

    until: float
    exchange: Exchange | None = None
    tries: list[Try] = field(default_factory=list)
    status: int = 0
    flags: str = ""
    done: bool = False


class Witness:
    """Writes down how some requests are routed.

    Args:
        upstreams: whom this agent knows.

    Attributes:
        records: by trace id; empty nearly always.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self.records: OrderedDict[bytes, Record] = OrderedDict()

    def expect(self, now: float) -> str:
        """Return the ``traceparent`` of a request that will be written down."""
        self._forget(now)
        if len(self.records) >= MAX_REQUESTS:
            self.records.popitem(last=False)
        trace = secrets.token_hex(16)
        self.records[trace.encode()] = Record(now + KEPT_S)
        return f"00-{trace}-{secrets.token_hex(8)}-00"

    def _forget(self, now: float) -> None:
        while self.records and next(iter(self.records.values())).until < now:
            self.records.popitem(last=False)

    def _of(self, exchange: Exchange) -> Record | None:
        self._forget(time.monotonic())
        traceparent = exchange.request.traceparent
        if traceparent is None or isinstance(exchange.request, Shadow):
            return None
        return self.records.get(traceparent[TRACE_ID])

    # -- what telemetry hears, too -------------------------------------------------------------------

    def begin_try(self, exchange: Exchange) -> None:
        record, destination = self._of(exchange), exchange.destination
        if record is None or destination is None:
            return
        record.exchange = exchange
        now = time.monotonic()
        target = destination.target
        known = self._upstreams.upstream(target.service).endpoints
        held = destination.states()
        rows = list(
            instances_of(
                target,
                list(known.values()),
                self._upstreams.origin,
                lambda one: one.usable and destination.guard.usable(one.instance, now),
                held,
            )
        )
        for row in rows:
            row["active"] = known[str(row["instance"])].active
        why = BALANCING.get(balancer_name(target.balancer).partition(",")[0], "")
        if exchange.key is not None:
            why = f"the request belongs together with others: {why}"
        if exchange.tried:
            names = ", ".join(dict.fromkeys(one.instance for one in exchange.tried))
            why += f"; tried before: {names}"
        record.tries.append(Try(exchange, now, target.key, why, rows))

    def end_try(self, exchange: Exchange, status: int, flags: str, now: float) -> None:
        record = self._of(exchange)
        for one in record.tries if record is not None else ():
            if one.exchange is exchange and not one.instance:
                one.instance, one.status, one.flags = exchange.instance, status, flags
                one.ms = round((now - one.began) * 1000, 3)

    def end_request(self, exchange: Exchange, status: int, flags: str) -> None:
        record = self._of(exchange)
        if record is not None:
            record.exchange = exchange
            record.status, record.flags, record.done = status, flags, True
            for one in record.tries:
                one.exchange = None  # so that nothing of the request is kept alive

    # -- for who asks ----------------------------------------------------------------------------------

    def view(self, policy_set: PolicySet, caller: Caller) -> list[dict[str, object]]:
        """Return what was written down, as plain data."""
        return [
            {
                "trace": trace.decode(),
                "done": record.done,
                "status": record.status,
                "flags": record.flags,
                "tries": [one.view() for one in record.tries],
                **self._explained(record, policy_set, caller),
            }
            for trace, record in self.records.items()
        ]

    def _explained(self, record: Record, policy_set: PolicySet, caller: Caller) -> dict[str, object]:
        exchange = record.exchange
        if exchange is None:
            return {"rule": None, "destination": None, "explanation": None}
        origin = self._upstreams.origin
        members = {
            service: list(self._upstreams.upstream(service).endpoints.values())
            for service in self._upstreams.services()
        }
        head = exchange.request.head
        question = Question(caller, exchange.service, head, origin.locality, origin.instance, members)
        destination = exchange.destination
        return {
            "rule": exchange.rule.name,
            "destination": None if destination is None else destination.view(),
            "explanation": explain(policy_set, question),
        }

    def __repr__(self) -> str:
        return f"<Witness requests={len(self.records)} of {MAX_REQUESTS}>"

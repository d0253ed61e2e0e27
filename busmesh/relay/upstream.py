"""The instances that this agent may send to, as the request path sees them.

The member actor brings in what it learns; a balancer per (service, subset) is made anew at each change and
not before the next request asks for it. An instance counts as usable when it is announced healthy, not
draining, not suspected, and a session with it stands.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from busmesh.decide.balance import Balancer, balancer
from busmesh.decide.route import Target
from busmesh.names import ServiceName
from busmesh.wire.frame import Session

if TYPE_CHECKING:
    from busmesh.telemetry.metrics import RequestMetrics


class Endpoint:
    """One instance as this caller sees it: what it announced, and what this caller has in flight there.

    Attributes:
        ready: announced as healthy and not draining.
        suspect: this caller got no sign of life on its own requests; a fresh announcement clears it.
        head: beginning of the publish frame for it, up to the stream number.
        active: requests in flight there, from this agent.
        last_round: when a round of questions to it began (monotonic seconds); ``questions`` were asked in it.
        unanswered: rounds in a row without any answer.
    """

    __slots__ = (
        "active",
        "head",
        "incarnation",
        "instance",
        "labels",
        "last_round",
        "metrics",
        "questions",
        "ready",
        "service",
        "session",
        "suspect",
        "unanswered",
        "version",
        "weight",
    )

    def __init__(self, service: ServiceName, instance: str, head: bytes) -> None:
        self.service = service
        self.instance = instance
        self.head = head
        self.incarnation = 0
        self.labels: Mapping[str, str] = {}
        self.version = ""
        self.weight = 100
        self.ready = False
        self.suspect = False
        self.session: Session | None = None
        self.active = 0
        self.unanswered = 0
        self.last_round = 0.0
        self.questions = 0
        #: By route name; filled at first use.
        self.metrics: dict[str, RequestMetrics] = {}

    @property
    def usable(self) -> bool:
        return self.ready and not self.suspect and self.session is not None

    @property
    def state(self) -> str:
        if not self.ready:
            return "not ready"
        if self.suspect:
            return "suspect"
        return "usable" if self.session is not None else "no session"

    def __repr__(self) -> str:
        return f"<Endpoint {self.service}/{self.instance} {self.state} active={self.active}>"


class Knowledge(enum.Enum):
    """How far the discovery of a service has come."""

    ASKING = "asking"  # asked, no answer yet
    KNOWN = "known"


class Upstream:
    """One service that this agent calls."""

    def __init__(self, service: ServiceName) -> None:
        self.service = service
        self.knowledge = Knowledge.ASKING
        self.endpoints: dict[str, Endpoint] = {}

    @property
    def pending(self) -> bool:
        """True while waiting may help: discovery or a first session is under way."""
        if self.knowledge is Knowledge.ASKING:
            return True
        return any(e.ready and not e.suspect and e.session is None for e in self.endpoints.values())

    def states(self) -> str:
        """Return the state of the first five instances, for a message; empty if there is none."""
        return ", ".join(f"{e.instance}: {e.state}" for e in islice(self.endpoints.values(), 5))


class Upstreams:
    """All services that this agent calls.

    Args:
        rng: source of randomness for the balancers.
        discover: called once per service at the first request for it.
        capacity: how many services requests may name: whoever sends them chooses the names, and each costs
            memory and a subscription.
    """

    def __init__(self, rng: Random, discover: Callable[[ServiceName], None], capacity: int) -> None:
        self._rng = rng
        self._discover = discover
        self.capacity = capacity
        self._services: dict[ServiceName, Upstream] = {}
        self._balancers: dict[str, Balancer[Endpoint]] = {}  # by Target.key
        self._keys: dict[ServiceName, set[str]] = {}
        #: Called when an endpoint became usable or a service became known: waiting requests try again.
        self.on_change: Callable[[ServiceName], None] = lambda service: None

    def reset(self) -> None:
        """Hear that the policies changed: a target of the same name may now mean other instances."""
        self._balancers.clear()
        self._keys.clear()

    def upstream(self, service: ServiceName) -> Upstream:
        """Return what is known of ``service``; the first call for one starts its discovery."""
        found = self._services.get(service)
        if found is None:
            found = self._services[service] = Upstream(service)
            self._discover(service)
        return found

    def takes(self, service: ServiceName) -> bool:
        """Say whether ``service`` is known or there is room for one more."""
        return service in self._services or len(self._services) < self.capacity

    def pick(self, target: Target, tried: list[Endpoint]) -> Endpoint | None:
        """Choose the instance for the next try, None if none is usable."""
        chosen = self._balancers.get(target.key)
        if chosen is None:
            if not self.takes(target.service):
                return None
            chosen = self._make(target)
        return chosen.pick(tried)

    def _make(self, target: Target) -> Balancer[Endpoint]:
        wanted = target.labels
        candidates = [
            e
            for e in self.upstream(target.service).endpoints.values()
            if e.usable and all(e.labels.get(key) == value for key, value in wanted.items())
        ]
        made = self._balancers[target.key] = balancer(target.balancer, candidates, self._rng)
        self._keys.setdefault(target.service, set()).add(target.key)
        return made

    def changed(self, service: ServiceName) -> None:
        """Hear that an endpoint of ``service`` came, went or changed."""
        for key in self._keys.pop(service, ()):
            self._balancers.pop(key, None)
        self.on_change(service)

    def endpoints(self) -> Iterator[Endpoint]:
        for upstream in self._services.values():
            yield from upstream.endpoints.values()

    def services(self) -> list[ServiceName]:
        return list(self._services)

    def __repr__(self) -> str:
        return f"<Upstreams services={len(self._services)} endpoints={sum(1 for _ in self.endpoints())}>"

"""All that this agent calls: services with their instances, and the destinations that requests go to."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from random import Random

from busmesh.decide.origin import Origin
from busmesh.decide.records import Change
from busmesh.decide.route import Target
from busmesh.names import ServiceName
from busmesh.relay.destination.destination import Destination
from busmesh.relay.destination.upstream import Endpoint, Upstream
from busmesh.relay.ticker import Ticker

#: How often destinations look for what is due.
TICK_S = 0.1


class Upstreams:
    """The services and destinations of one agent.

    Args:
        rng: source of randomness for the balancers.
        discover: called once per service at the first request for it.
        capacity: how many services requests may name: whoever sends them chooses the names, and each costs
            memory and a subscription.
        origin: the instance whose requests these are.
    """

    def __init__(
        self,
        rng: Random,
        discover: Callable[[ServiceName], None],
        capacity: int,
        origin: Origin = Origin(),  # noqa: B008  # frozen
    ) -> None:
        self._rng = rng
        self._discover = discover
        self.capacity = capacity
        self._origin = origin
        self._services: dict[ServiceName, Upstream] = {}
        self._destinations: dict[str, Destination] = {}  # by Target.key
        self._ticker = Ticker(TICK_S, self._tick)
        #: Called when an endpoint became usable or a service became known: waiting requests try again.
        self.on_change: Callable[[ServiceName], None] = lambda service: None
        #: Hears of each ejection and return.
        self.on_ejection: Callable[[Destination, Change], None] = lambda destination, change: None
        #: Hears of each destination that instances have joined, before any of them is chosen.
        self.on_join: Callable[[Destination], None] = lambda destination: None

    @property
    def origin(self) -> Origin:
        return self._origin

    def use(self, now: float, target_of: Callable[[Target], Target | None]) -> list[Destination]:
        """Hear that the policies changed; return the destinations that go on.

        Args:
            now: monotonic seconds.
            target_of: what a target is from now on; None if no rule leads there any more.
        """
        for key, destination in list(self._destinations.items()):
            target = target_of(destination.target)
            if target is not None:
                destination.use(target, now)
            elif destination.idle:
                del self._destinations[key]
        self._watch()
        return list(self._destinations.values())

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

    def destination(self, target: Target) -> Destination | None:
        """Return the destination that a target is; None if there is no room for its service."""
        found = self._destinations.get(target.key)
        if found is None and self.takes(target.service):
            found = self._destinations[target.key] = Destination(
                target,
                self.upstream(target.service),
                self._rng,
                self._origin,
                time.monotonic(),
                self._tell,
                self._join,
            )
            self._watch()
        return found

    def destinations(self) -> Collection[Destination]:
        return self._destinations.values()

    def changed(self, service: ServiceName) -> None:
        """Hear that an endpoint of ``service`` came, went or changed."""
        for destination in self._destinations.values():
            if destination.target.service == service:
                destination.changed()
        self.on_change(service)

    def _join(self, destination: Destination) -> None:
        self.on_join(destination)

    def _tell(self, destination: Destination, change: Change) -> None:
        self.on_ejection(destination, change)

    def _watch(self) -> None:
        if any(destination.watched for destination in self._destinations.values()):
            self._ticker.wake()

    def _tick(self, now: float) -> bool:
        watched = [destination for destination in self._destinations.values() if destination.watched]
        for destination in watched:
            destination.tick(now)
        return bool(watched)

    def endpoints(self) -> Iterator[Endpoint]:
        for upstream in self._services.values():
            yield from upstream.endpoints.values()

    def services(self) -> list[ServiceName]:
        return list(self._services)

    def __repr__(self) -> str:
        endpoints = sum(1 for _ in self.endpoints())
        return (
            f"<Upstreams services={len(self._services)} endpoints={endpoints}"
            f" destinations={len(self._destinations)}>"
        )

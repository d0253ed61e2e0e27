"""Asking after requests whose answer is slow: what became of them?

An instance answers at once while its agent lives, so its silence means something; and a request that was
lost on the bus leaves no other trace. A few questions find both: a slow application must not double the
traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Container

from busmesh.bus.bus import Bus
from busmesh.relay.destination.upstream import Endpoint
from busmesh.relay.tries.exchange import Exchange
from busmesh.wire.frame import Kind
from busmesh.wire.probe import encode_probe

#: An answer slower than this makes the agent ask.
PROBE_AFTER_S = 0.1
#: One round of questions to an instance, and so many in it. Those asked least come first, so that a request
#: that takes long does not keep the agent from asking after the one behind it.
ROUND_S = 0.25
QUESTIONS = 16
#: So many rounds without an answer, and the instance counts as frozen: about 1.1 s after the request.
ROUNDS_UNANSWERED = 4


class Prober:
    """Asks instances after slow requests.

    Args:
        bus: where to ask.
        silent: called when an instance has not answered any question for too long.
    """

    def __init__(self, bus: Bus, silent: Callable[[Endpoint], None]) -> None:
        self._bus = bus
        self._silent = silent

    def look_after(
        self, slow: list[Exchange], in_flight: Container[int], now: float, questions: float = QUESTIONS
    ) -> None:
        """Ask after those of ``slow``, the oldest first, that are due and still ``in_flight`` by stream.

        An instance gets so many ``questions`` in a round, those of earlier calls counted.
        """
        slow.sort(key=lambda exchange: exchange.asked)
        for exchange in slow:
            endpoint = exchange.endpoint
            if endpoint is None or exchange.stream not in in_flight:
                continue
            if now - endpoint.last_round >= ROUND_S:
                endpoint.last_round, endpoint.questions = now, 0
                endpoint.unanswered += 1
                if endpoint.unanswered > ROUNDS_UNANSWERED:
                    endpoint.unanswered = 0
                    self._silent(endpoint)
                    continue
            if endpoint.questions < questions and now - exchange.asked_at >= ROUND_S:
                endpoint.questions += 1
                exchange.asked += 1
                exchange.asked_at = now
                self.ask(exchange)

    def ask(self, exchange: Exchange) -> None:
        """Ask after one request, now."""
        session, stream = exchange.session, exchange.stream
        if session is not None:
            frame = session.seal(Kind.PROBE, stream, encode_probe(exchange.counter))
            self._bus.write(b"%bp%d %d\r\n%b\r\n" % (session.head, stream, len(frame), frame))

"""What a rule does to a request before it is sent, or instead: faults, answers, rewriting, copies.

Nearly no rule does any of this; those that do pay for it here and not on the short path.
"""

from __future__ import annotations

import time
from random import Random
from typing import Protocol

from busmesh.decide.answer import Redirect
from busmesh.decide.request import RequestHead
from busmesh.decide.retry import NO_RETRIES
from busmesh.decide.rewrite import Rewrite
from busmesh.decide.route import Rule, Target
from busmesh.relay.client.answers import Answer, reason_of, shown
from busmesh.relay.httpdate import date_line
from busmesh.relay.outbound.shadow import MAX_SHADOWS, Shadow, Shadows
from busmesh.relay.outbound.waiting import Waiting
from busmesh.relay.tries.exchange import Exchange


class Sender(Protocol):
    """The caller's side of the mesh, which sends and answers."""

    active: int

    def launch(self, exchange: Exchange, target: Target) -> None:
        """Send a request to a destination."""

    def answer(self, exchange: Exchange, answer: Answer) -> None:
        """End a request with an answer of the mesh's own."""

    def respond(self, exchange: Exchange, status: int, reason: bytes, headers: bytes, body: bytes) -> None:
        """End a request with a response that stands in its rule."""


class Actions:
    """Carries out what rules say.

    Args:
        sender: sends what is left to be sent.
        waiting: where delayed requests wait.
        rng: decides whom a fault hits and what is copied.
    """

    def __init__(self, sender: Sender, waiting: Waiting, rng: Random) -> None:
        self._sender = sender
        self._waiting = waiting
        self._rng = rng
        self._shadows = Shadows()

    def begin(self, exchange: Exchange) -> None:
        """Take a request whose rule does more than pick a target."""
        fault = exchange.rule.fault
        seconds = fault.delay(self._rng) if fault is not None else 0.0
        if seconds:
            # Nobody waits for what comes after the time of the request that this one is made for.
            due = exchange.not_after(exchange.started + seconds)
            then = self._let_go if due == exchange.started + seconds else self._too_late
            if self._waiting.wait(exchange, due, then):
                return
        self._let_go(exchange)

    def _let_go(self, exchange: Exchange) -> None:
        """Go on with a request that was not delayed, or long enough; its time begins here, as in Envoy."""
        rule, request = exchange.rule, exchange.request
        exchange.deadline = exchange.ends = exchange.not_after(time.monotonic() + exchange.allowed)
        status = rule.fault.abort(self._rng) if rule.fault is not None else 0
        if status:
            message = f"the route {rule.name} aborts some requests on purpose"
            self._sender.answer(
                exchange, Answer(status, "FI", "fault_injected", message, str(exchange.service))
            )
        elif rule.answer is not None:
            self._answer(exchange, rule)
        elif rule.rewrite is not None and not self._rewrite(exchange, rule.rewrite):
            message = f"the route {rule.name} makes no path of {shown(request.head.path)}"
            self._sender.answer(exchange, Answer(400, "NR", "bad_rewrite", message, str(exchange.service)))
        else:
            self._copy(exchange, rule)
            self._sender.launch(exchange, rule.pick(request.head))

    def _too_late(self, exchange: Exchange) -> None:
        """End a request whose time was up while it was delayed."""
        message = f"the route {exchange.rule.name} delays for longer than its caller waits"
        self._sender.answer(exchange, Answer(504, "UT", "timeout", message, str(exchange.service)))

    def _answer(self, exchange: Exchange, rule: Rule) -> None:
        answer, request = rule.answer, exchange.request
        assert answer is not None, "only a rule that answers comes here"
        headers = date_line()
        body = b""
        if isinstance(answer, Redirect):
            location = answer.location(request.authority, request.head.target)
            headers += b"location: %b\r\n" % location
        else:
            body = answer.body
            operations = rule.response_headers
            if body and (operations is None or not operations.writes(b"content-type")):
                headers += b"content-type: text/plain\r\n"
        self._sender.respond(exchange, answer.status, reason_of(answer.status), headers, body)

    def _rewrite(self, exchange: Exchange, rewrite: Rewrite) -> bool:
        """Put the new target and authority into what is sent; False if there is no such target."""
        head = exchange.head
        target = rewrite.target(head.target)
        if target is None:
            return False
        exchange.head = RequestHead.from_block(head.method, target, rewrite.headers(head.block))
        return True

    def _copy(self, exchange: Exchange, rule: Rule) -> None:
        """Send copies where the rule wants them; a body that is still to come is not copied."""
        for mirror in rule.mirrors:
            if exchange.request.opening is None and mirror.wanted(self._rng) and self._shadows.add():
                copy = Exchange(
                    Shadow(exchange.request, exchange.head, self._shadows),
                    exchange.service,
                    Rule(f"{rule.name}-mirror", None, timeout=rule.timeout, retries=NO_RETRIES),
                    time.monotonic(),
                )
                copy.request.exchange = copy
                self._sender.active += 1
                self._sender.launch(copy, mirror.target)

    def statistics(self) -> dict[str, int]:
        return {"shadows": self._shadows.active, "shadows_dropped": self._shadows.dropped}

    def __repr__(self) -> str:
        return f"<Actions shadows={self._shadows.active} of {MAX_SHADOWS}>"

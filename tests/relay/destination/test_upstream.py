"""What the request path sees of instances: who is usable, what a change makes anew, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from busmesh.decide.route import Target
from busmesh.names import ServiceName, SpiffeId
from busmesh.relay.client.answers import Answer, reason_of, shown
from busmesh.relay.destination.upstream import Endpoint, Knowledge
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.httpdate import date_line
from busmesh.relay.ticker import Ticker
from busmesh.wire.frame import Session

ORDERS = ServiceName("orders")
ALL = Target(ORDERS)
V2 = Target(ORDERS, "v2", {"version": "v2"})


def session() -> Session:
    key = (b"k" * 32, b"i" * 12)
    return Session(1, SpiffeId("local", operator="nobody"), send=key, receive=key, started=0.0)


def upstreams(*endpoints: Endpoint, capacity: int = 10) -> Upstreams:
    made = Upstreams(Random(1), lambda service: None, capacity)
    made.upstream(ORDERS).endpoints.update({endpoint.instance: endpoint for endpoint in endpoints})
    return made


def pick(known: Upstreams, target: Target, tried: list[Endpoint]) -> Endpoint | None:
    destination = known.destination(target)
    return None if destination is None else destination.pick(0.0, tried, None)


def endpoint(name: str, **labels: str) -> Endpoint:
    made = Endpoint(ORDERS, name)
    made.ready, made.session, made.labels = True, session(), labels
    return made


def test_only_what_is_ready_trusted_and_reached_is_picked() -> None:
    good, unready, suspect, unreached = (endpoint(name) for name in ("a", "b", "c", "d"))
    unready.ready, suspect.suspect, unreached.session = False, True, None
    known = upstreams(good, unready, suspect, unreached)
    assert {pick(known, ALL, []) for _ in range(20)} == {good}
    assert [e.state for e in known.endpoints()] == ["usable", "not ready", "suspect", "no session"]
    assert known.upstream(ORDERS).states() == "a: usable, b: not ready, c: suspect, d: no session"


def test_a_change_counts_from_the_next_request_on_and_not_before_it_is_told() -> None:
    first, second = endpoint("a"), endpoint("b")
    known = upstreams(first)
    assert pick(known, ALL, []) is first
    known.upstream(ORDERS).endpoints["b"] = second
    assert {pick(known, ALL, []) for _ in range(20)} == {first}
    told: list[ServiceName] = []
    known.on_change = told.append
    known.changed(ORDERS)
    assert told == [ORDERS]
    assert {pick(known, ALL, []) for _ in range(50)} == {first, second}


def test_a_subset_is_the_instances_with_its_labels() -> None:
    old, new = endpoint("a", version="v1"), endpoint("b", version="v2", zone="x")
    known = upstreams(old, new)
    assert {pick(known, V2, []) for _ in range(20)} == {new}
    new.labels = {"version": "v3"}
    known.changed(ORDERS)
    assert pick(known, V2, []) is None


def test_new_policies_may_mean_other_instances_by_the_same_name() -> None:
    old, new = endpoint("a", version="v1"), endpoint("b", version="v2")
    known = upstreams(old, new)
    assert pick(known, V2, []) is new
    renamed = Target(ORDERS, "v2", {"version": "v1"})
    [destination] = known.use(0.0, lambda target: renamed)
    assert destination.target is renamed
    assert pick(known, renamed, []) is old
    assert known.use(0.0, lambda target: None) == [], "nothing leads there any more"


def test_tried_ones_come_last() -> None:
    first, second = endpoint("a"), endpoint("b")
    known = upstreams(first, second)
    assert {pick(known, ALL, [first]) for _ in range(20)} == {second}
    assert pick(known, ALL, [first, second]) in (first, second)


def test_weights_hold_while_nothing_is_at_work() -> None:
    light, heavy = endpoint("a"), endpoint("b")
    light.weight, heavy.weight = 10, 90
    known = upstreams(light, heavy)
    picked = Counter(pick(known, ALL, []) for _ in range(4000))
    assert 0.07 < picked[light] / 4000 < 0.13


@pytest.mark.parametrize(
    ("knowledge", "ready", "suspect", "reached", "pending"),
    [
        (Knowledge.ASKING, False, False, False, True),
        (Knowledge.KNOWN, True, False, False, True),
        (Knowledge.KNOWN, True, True, False, False),
        (Knowledge.KNOWN, False, False, False, False),
        (Knowledge.KNOWN, True, False, True, False),
    ],
)
def test_when_waiting_may_help(
    knowledge: Knowledge, ready: bool, suspect: bool, reached: bool, pending: bool
) -> None:
    one = endpoint("a")
    one.ready, one.suspect = ready, suspect
    one.session = session() if reached else None
    known = upstreams(one)
    known.upstream(ORDERS).knowledge = knowledge
    assert known.upstream(ORDERS).pending is pending


def test_picking_follows_no_more_services_than_there_is_room_for() -> None:
    discovered: list[ServiceName] = []
    known = Upstreams(Random(1), discovered.append, 3)
    for n in range(10):
        assert pick(known, Target(ServiceName(f"s-{n}")), []) is None
    assert len(discovered) == len(known.services()) == 3
    assert known.takes(ServiceName("s-0"))
    assert not known.takes(ServiceName("s-9"))
    known.upstream(ServiceName("of-a-policy"))
    assert len(known.services()) == 4, "what policies and definitions name is no caller's whim"


# -- the ticker --------------------------------------------------------------------------------------


class Timer:
    """Stands in for a loop and its timers: fires when told."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay: float, work: Callable[[], None]) -> Timer:
        assert delay == 0.01
        self.due.append(work)
        return self

    def cancel(self) -> None:
        self.due.clear()

    def fire(self) -> None:
        due, self.due = self.due, []
        for work in due:
            work()


def test_the_ticker_ticks_while_there_is_work_and_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, answers, ticks = Timer(), [True, True, False, True], []

    def work(now: float) -> bool:
        ticks.append(now)
        return answers[len(ticks) - 1]

    monkeypatch.setattr("busmesh.relay.ticker.asyncio.get_running_loop", lambda: timer)
    ticker = Ticker(0.01, work)
    assert timer.due == []
    ticker.wake()
    ticker.wake()
    assert len(timer.due) == 1
    for _ in range(5):
        timer.fire()
    assert len(ticks) == 3, "there was nothing left to watch"
    ticker.wake()
    timer.fire()
    assert len(ticks) == 4
    ticker.stop()
    ticker.stop()
    assert timer.due == []
    ticker.wake()
    assert len(timer.due) == 1, "and may begin again"


# -- answers -----------------------------------------------------------------------------------------


def test_an_answer_is_one_line_of_json_and_a_flag() -> None:
    answer = Answer(503, "UH", "no_healthy_upstream", 'nobody "serves"\r\norders', "orders", "orders-1")
    assert answer.body().count(b"\n") == 1
    assert answer.headers() == (
        date_line() + b"content-type: application/json\r\nx-busmesh-flags: UH\r\nretry-after: 1\r\n"
    )
    assert b"retry-after" not in Answer(504, "UT", "timeout", "").headers()


def test_what_a_client_wrote_is_shown_harmless() -> None:
    assert shown(b"a\r\n\x1b[31m\xff") == r"'a\r\n\x1b[31mÿ'"
    assert len(shown(b"a" * 5000)) == 202


@pytest.mark.parametrize(("status", "reason"), [(200, b"OK"), (504, b"Gateway Timeout"), (299, b"")])
def test_reasons(status: int, reason: bytes) -> None:
    assert reason_of(status) == reason

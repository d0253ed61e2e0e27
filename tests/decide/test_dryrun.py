"""Two sets of rules on the same requests: what differs is found, counted and bounded."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.answer import DirectResponse
from busmesh.decide.balance import BalancerSpec
from busmesh.decide.dryrun import Comparison, Difference, Tally, shape
from busmesh.decide.match import exact, path_passes
from busmesh.decide.request import RequestHead
from busmesh.decide.rewrite import Rewrite
from busmesh.decide.route import Rule, ServicePolicy, Target
from busmesh.decide.split import Split, deviation_bound
from busmesh.names import ServiceName

ORDERS = ServiceName("orders")
HEAD = RequestHead(b"GET", b"/orders/7", [])
NOBODY = Target(ORDERS, "v9")


def split(start: float = 0.0, **weights: int) -> Split[Target]:
    return Split([(Target(ORDERS, subset), weight) for subset, weight in weights.items()], start)


def comparison(*rules: Rule, per_second: int = 10_000) -> Comparison:
    policy = ServicePolicy(ORDERS, rules)
    return Comparison(lambda service: policy, lambda target: target != NOBODY, per_second)


shares = st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any)


@given(shares, shares, st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_destination_before_is_the_one_that_the_request_path_takes(
    before: list[int], after: list[int], start: float, other: float
) -> None:
    names = ("v1", "v2", "v3")
    real = Rule("all", split(start, **dict(zip(names, before, strict=True))))
    beside = comparison(Rule("all", split(other, **dict(zip(names, after, strict=True)))))
    gone: Counter[str] = Counter()
    for _ in range(60):
        found = beside.compare(ORDERS, HEAD, real)
        taken = real.pick(HEAD).key
        assert found is None or found.goes_before == taken
        gone[taken if found is None else found.goes_after] += 1
    for name, weight in zip(names, after, strict=True):
        assert abs(gone[f"orders.default/{name}"] - 60 * weight / sum(after)) <= deviation_bound(60)


def test_of_a_split_that_moves_only_the_moved_differ() -> None:
    real, beside = Rule("all", split(0.3, v1=90, v2=10)), comparison(Rule("all", split(0.8, v1=80, v2=20)))
    for _ in range(1000):
        beside.look(ORDERS, HEAD, real, 0.0)
        real.pick(HEAD)
    [(difference, count)] = beside.tally.counts.items()
    assert (difference.goes_before, difference.goes_after) == ("orders.default/v1", "orders.default/v2")
    assert abs(count - 100) <= deviation_bound(1000)


PLAIN = Rule("all", split(v1=100))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (PLAIN, Rule("all", split(v1=100)), None),
        (PLAIN, Rule("new", split(v1=100)), ("all", "new", "v1", "v1", (), "")),
        (PLAIN, Rule("all", split(v2=100)), ("all", "all", "v1", "v2", (), "")),
        (PLAIN, Rule("all", split(v1=100), timeout=1.0), ("all", "all", "v1", "v1", ("timeout",), "")),
        (PLAIN, Rule("all", split(v9=100)), ("all", "all", "v1", "v9", (), "503 no_healthy_upstream")),
        (Rule("all", split(v9=100)), Rule("all", split(v9=100)), None),
        (
            PLAIN,
            Rule("all", split(v1=100), matches=path_passes(exact(b"/"))),
            ("all", "", "v1", "404 no_route", (), "404 no_route"),
        ),
        (None, Rule("all", split(v1=100)), ("", "all", "404 no_route", "v1", (), "")),
        (
            PLAIN,
            Rule("shut", None, answer=DirectResponse(503, b"")),
            ("all", "shut", "v1", "503 response", ("answer",), "503 response"),
        ),
        (
            PLAIN,
            Rule("all", split(v1=100), rewrite=Rewrite(uri=b"/new")),
            ("all", "all", "v1", "v1", ("rewrite",), ""),
        ),
        (
            PLAIN,
            Rule("all", Split([(Target(ORDERS, "v1", balancer=BalancerSpec("RANDOM")), 1)], 0.0)),
            ("all", "all", "v1", "v1", ("balancer",), ""),
        ),
        (
            PLAIN,
            Rule("all", Split([(Target(ORDERS, "v1", {"version": "v1"}), 1)], 0.0)),
            ("all", "all", "v1", "v1", ("subset",), ""),
        ),
    ],
)
def test_what_differs(before: Rule | None, after: Rule, expected: tuple[object, ...] | None) -> None:
    found = comparison(after).compare(ORDERS, HEAD, before)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found.service, found.method, found.path) == ("orders", "GET", "/orders/*")
    assert (
        found.rule_before,
        found.rule_after,
        found.goes_before.removeprefix("orders.default/"),
        found.goes_after.removeprefix("orders.default/"),
        found.settings,
        found.refused,
    ) == expected


def test_whose_it_is_decides_where_it_does() -> None:
    users = Rule("all", split(v1=50, v2=50), owner=lambda head: head.header(b"x-user"))
    beside = comparison(users)
    for user in (b"ana", b"bob", b"eve", b"kim"):
        head = RequestHead(b"GET", b"/", [(b"X-User", user)])
        found = beside.compare(ORDERS, head, PLAIN)
        assert (users.pick(head).key if found is None else found.goes_after) == users.pick(head).key


def test_no_more_are_compared_than_so_many_a_second() -> None:
    beside = comparison(Rule("all", split(v2=100)), per_second=10)
    for millisecond in range(2500):
        beside.look(ORDERS, HEAD, PLAIN, 100.0 + millisecond / 1000)
    assert (beside.seen, beside.compared) == (2500, 30)
    assert sum(beside.tally.counts.values()) == 30


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", "/"),
        (b"/orders", "/orders"),
        (b"/orders/123/lines/4", "/orders/*/lines/*"),
        (b"/v1/orders", "/v1/orders"),
        (b"/o/2f1b0c9e-8a11-4f57-9a6f-0c7d6d9fbe10", "/o/*"),
        (b"/o/deadbeefdeadbeef", "/o/*"),
        (b"/o/user12345678", "/o/*"),
        (b"/o/" + b"x" * 40, "/o/*"),
        (b"/word" * 30, ("/word" * 30)[:77] + "..."),
    ],
)
def test_the_shape_of_a_path(path: bytes, expected: str) -> None:
    assert shape(path) == expected


def test_what_is_counted_has_a_bound() -> None:
    tally, rng = Tally(100), Random(1)
    for number in range(5000):
        goes = f"d{rng.randrange(40)}"
        tally.add(Difference("orders", "GET", f"/{number}", "a", "b", "d", goes))
    assert len(tally.counts) == 125
    assert sum(tally.counts.values()) + tally.others == 5000
    assert any(not difference.path for difference in tally.counts), "what does not fit is summed up by rule"

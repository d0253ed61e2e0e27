from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.limit import Entry, Limit, Quota, share_key
from busmesh.decide.ratelimit import ALLOWED, MAX_CALLERS, RateLimiter, Verdict, retry_after
from busmesh.decide.request import RequestHead
from busmesh.decide.sharing import SETTLE_S, Sharing
from busmesh.names import ServiceName

WEB, BATCH = ServiceName("web"), ServiceName("batch", "shop")
HEAD = RequestHead(b"GET", b"/a?b", [])
POST = RequestHead(b"POST", b"/a", [])


def limit(name: str = "a", rate: float = 1.0, burst: float = 2.0, **options: Any) -> Limit:
    options.setdefault("identity", f"{name} {rate} {burst}")
    return Limit(name=name, quota=Quota(rate, burst), **options)


def limiter(*limits: Limit, max_slots: int = 4, sharing: Sharing | None = None) -> RateLimiter:
    made = RateLimiter(sharing or Sharing(born=1, now=-10.0), max_slots=max_slots)
    made.apply(limits, 0.0)
    return made


def head(value: str | None = None, target: str = "/") -> RequestHead:
    return RequestHead(b"GET", target.encode(), [] if value is None else [(b"X-User", value.encode())])


def passes(
    limits: RateLimiter, count: int, head: RequestHead = HEAD, caller: ServiceName = WEB, now: float = 0.0
) -> int:
    return sum(limits.check(caller, head, now).allowed for _ in range(count))


def test_without_limits_everything_passes() -> None:
    assert limiter().check(WEB, HEAD, 0.0) is ALLOWED


def test_a_refusal_names_the_limit_and_says_how_long_to_wait() -> None:
    limits = limiter(limit("orders", rate=4, burst=2))
    assert [limits.check(WEB, HEAD, 0.0) for _ in range(2)] == [ALLOWED, ALLOWED]
    assert limits.check(WEB, HEAD, 0.0) == Verdict(False, "orders", 0.25)
    assert limits.check(WEB, HEAD, 0.1).wait == pytest.approx(0.15)
    assert limits.check(WEB, HEAD, 0.25) is ALLOWED
    assert limits.statistics() == {"orders": {"allowed": 3, "refused": 2, "crowded": 0}}


@pytest.mark.parametrize(("wait", "said"), [(0, 1), (0.001, 1), (1, 1), (1.1, 2), (1e9, 86400)])
def test_retry_after_is_whole_seconds(wait: float, said: int) -> None:
    assert retry_after(wait) == said


def test_a_limit_concerns_the_requests_that_it_matches() -> None:
    posts = Entry(condition=lambda head: head.method == b"POST")
    limits = limiter(limit(match=(Entry(caller=BATCH), posts)))
    assert passes(limits, 5, HEAD) == 5
    assert passes(limits, 5, POST) == 2
    assert passes(limits, 5, HEAD, BATCH) == 0, "it has none of its own"
    shop = limiter(limit(match=(Entry(namespace="shop", condition=posts.condition),)))
    assert [passes(shop, 5, POST, WEB), passes(shop, 5, HEAD, BATCH), passes(shop, 5, POST, BATCH)] == [
        5,
        5,
        2,
    ]


def test_what_one_limit_refuses_uses_up_no_other() -> None:
    limits = limiter(limit("total", burst=10), limit("posts", burst=1, match=(Entry(caller=BATCH),)))
    assert passes(limits, 50, caller=BATCH) == 1
    assert passes(limits, 50, caller=WEB) == 9
    assert limits.check(BATCH, HEAD, 0.0).limit == "total"


def test_a_limit_in_shadow_counts_and_refuses_nothing() -> None:
    limits = limiter(limit("shadow", burst=1, enforcing=False), limit("real", burst=3))
    assert limits.check(WEB, HEAD, 0.0) is ALLOWED
    assert limits.check(WEB, HEAD, 0.0) == Verdict(True, "shadow", 1.0)
    assert passes(limits, 5) == 1
    assert limits.statistics() == {
        "shadow": {"allowed": 1, "refused": 6, "crowded": 0},
        "real": {"allowed": 3, "refused": 4, "crowded": 0},
    }


def test_keys_are_counted_apart() -> None:
    callers = limiter(limit(per=("caller",)))
    assert [passes(callers, 5, caller=name) for name in (WEB, BATCH, ServiceName("web", "shop"))] == [2, 2, 2]
    users = limiter(limit(per=("header:x-user",)))
    assert [passes(users, 5, head(user)) for user in ("a", "b", "a", "", None)] == [2, 2, 0, 2, 0]
    paths = limiter(limit(per=("path",)))
    assert [passes(paths, 5, head(target=target)) for target in ("/a", "/b?x", "/b?y")] == [2, 2, 0]
    both = limiter(limit(per=("caller", "header:x-user")), max_slots=9)
    cases = [(WEB, "a"), (WEB, "b"), (BATCH, "a"), (WEB, "a")]
    assert [passes(both, 5, head(user), caller) for caller, user in cases] == [2, 2, 2, 0]


def test_a_long_value_is_a_key_as_well_and_is_not_kept() -> None:
    users = limiter(limit(per=("header:x-user",)))
    long = "x" * 8000
    assert [passes(users, 5, head(value)) for value in (long, long + "y", long)] == [2, 2, 0]


def test_callers_may_have_numbers_of_their_own() -> None:
    limits = limiter(limit(per=("caller",), quotas={BATCH: Quota(10.0, 5.0)}))
    assert [passes(limits, 9, caller=WEB), passes(limits, 9, caller=BATCH)] == [2, 5]
    assert [passes(limits, 9, caller=WEB, now=0.5), passes(limits, 9, caller=BATCH, now=0.5)] == [0, 5]


def test_a_new_revision_keeps_the_buckets_of_limits_that_stay() -> None:
    stays, goes = limit("stays"), limit("goes", match=(Entry(caller=BATCH),))
    limits = limiter(stays, goes)
    assert passes(limits, 5) == 2
    limits.apply([limit("new", burst=50), limit("stays", enforcing=False)], 0.0)
    assert limits.check(WEB, HEAD, 0.0) == Verdict(True, "stays", 1.0)
    limits.apply([limit("stays", burst=3)], 0.0)
    assert passes(limits, 5) == 3, "of other numbers it is another limit"
    limits.apply([], 0.0)
    assert limits.check(WEB, HEAD, 0.0) is ALLOWED
    limits.apply([stays], 0.0)
    assert passes(limits, 5) == 2


def test_callers_that_are_remembered_are_bounded() -> None:
    limits = limiter(limit(burst=1.0, match=(Entry(namespace="other"),)))
    for index in range(MAX_CALLERS + 10):
        assert limits.check(ServiceName(f"s{index}"), HEAD, 0.0) is ALLOWED
    assert f"callers={MAX_CALLERS}" in repr(limits)


def test_who_makes_up_keys_gets_a_bounded_number_of_buckets() -> None:
    limits = limiter(limit(per=("header:x-user",)), max_slots=4)
    admitted = sum(
        passes(limits, 1, head(f"u{index}")) + passes(limits, 1, head(f"u{index}")) for index in range(99)
    )
    assert admitted == 4 * 2 + 2
    assert passes(limits, 9, head("u0"), now=0.5) == 0, "being forgotten would have filled it"
    assert limits.statistics()["a"]["crowded"] == 2 * 95
    assert passes(limits, 9, head("new"), now=1.0) == 1, "of the bucket in common"
    assert passes(limits, 9, head("newer"), now=2.0) == 2, "of a slot whose bucket was full"


def test_the_slot_that_rested_longest_is_the_one_that_is_reused() -> None:
    limits = limiter(limit(rate=1, burst=2, per=("header:x-user",)), max_slots=2)
    assert [passes(limits, 1, head(user)) for user in "ab"] == [1, 1]
    assert passes(limits, 5, head("a"), now=1.5) == 2
    assert passes(limits, 5, head("c"), now=1.6) == 2
    assert passes(limits, 5, head("a"), now=2.5) == 1, "it kept its own"
    assert limits.statistics()["a"]["crowded"] == 0


def test_those_that_were_there_do_not_notice_who_makes_up_keys() -> None:
    limits = limiter(limit(rate=1, burst=2, per=("header:x-user",)), max_slots=4)
    seen = []
    for second in range(20):
        now = float(second)
        seen.append(passes(limits, 1, head("regular"), now=now))
        for index in range(50):
            limits.check(WEB, head(f"{second} {index}"), now)
    assert seen == [1] * 20


@given(
    st.lists(
        st.tuples(st.floats(0, 0.4), st.integers(0, 12)),
        max_size=120,
    )
)
def test_no_way_of_choosing_keys_gets_a_key_more_than_its_bucket_or_all_more_than_the_slots(
    steps: list[tuple[float, int]],
) -> None:
    """Held against a bucket per key that is never forgotten; only what is crowded may get less."""
    slots = 3
    limits = limiter(limit(rate=1.0, burst=2.0, per=("header:x-user",)), max_slots=slots)
    ideal = {index: limiter(limit()) for index in range(13)}
    admitted: Counter[int] = Counter()
    now = 0.0
    for passed, user in steps:
        now += passed
        allowed = limits.check(WEB, head(str(user)), now).allowed
        expected = ideal[user].check(WEB, HEAD, now).allowed
        admitted[user] += allowed
        if not limits.statistics()["a"]["crowded"]:
            assert allowed == expected
        assert admitted[user] <= 2 * (2 + now) + 1e-6, "its own and the one in common"
        assert admitted.total() <= (slots + 1) * (2 + now) + 1e-6


def test_a_limit_for_the_mesh_is_shared_by_a_digest_of_its_key() -> None:
    sharing = Sharing(born=1, now=-10.0)
    limits = limiter(limit("a", 100, 100, scope="mesh", per=("header:x-user",)), sharing=sharing)
    assert limits.shared
    now = SETTLE_S
    assert passes(limits, 130, head("anna"), now=now) == 100
    sharing.tick(now + 0.1)
    report = sharing.report(now + 0.1)
    assert report is not None
    (key,) = report.entries
    assert key == share_key("a 100 100", b"\0anna")
    assert report.entries[key].admitted == 100
    assert report.entries[key].demand > 300, "what was refused counts as asked"


def test_what_another_limit_refuses_is_no_demand_on_a_shared_one() -> None:
    sharing = Sharing(born=1, now=-10.0)
    limits = limiter(
        limit("total", 100, 100, scope="mesh"),
        limit("callers", 1, 1, per=("caller",)),
        sharing=sharing,
    )
    passes(limits, 500, now=1.0)
    sharing.tick(1.1)
    report = sharing.report(1.1)
    assert report is not None
    assert [round(entry.demand, 1) for entry in report.entries.values()] == [2.8]


def test_the_first_limit_for_the_mesh_finds_a_newcomer_and_a_removed_one_is_not_reported() -> None:
    sharing = Sharing(born=1, now=-10.0)
    limits = limiter(limit("local"), sharing=sharing)
    assert not limits.shared
    limits.apply([limit("total", 100, 100, scope="mesh")], 5.0)
    assert not sharing.settled(5.1)
    assert passes(limits, 50, now=5.1) == 10
    assert sharing.statistics()["keys"] == 1
    limits.apply([limit("total", 100, 100, scope="mesh"), limit("local")], 6.0)
    assert sharing.settled(6.0)
    limits.apply([], 7.0)
    assert sharing.statistics()["keys"] == 0


def test_a_forgotten_key_is_no_longer_shared() -> None:
    sharing = Sharing(born=1, now=-10.0)
    limits = limiter(limit("a", 10, 1, scope="mesh", per=("header:x-user",)), sharing=sharing, max_slots=2)
    for index in range(9):
        assert passes(limits, 1, head(str(index)), now=float(index)) == 1
    assert sharing.statistics()["keys"] == 2


def test_processes_of_one_instance_share_what_is_local() -> None:
    processes = [Sharing(born=1, now=-10.0) for _ in range(2)]
    limiters = [RateLimiter(Sharing(born=1, now=-10.0), local=local) for local in processes]
    for made in limiters:
        made.apply([limit(rate=100.0, burst=5.0)], 0.0)
    passed = 0
    for step in range(1000):  # 5 s, in which each process is asked 400 times a second
        now = step / 200
        if step % 20 == 0:
            for own, other in ((0, 1), (1, 0)):
                processes[own].tick(now)
                report = processes[own].report(now)
                if report is not None:
                    processes[other].hear(str(own), report, now)
        let_in = sum(passes(made, 2, now=now) for made in limiters)
        passed += let_in if now >= 3 else 0
    assert passed == pytest.approx(200, rel=0.05), "100 a second together, over the last 2 s"

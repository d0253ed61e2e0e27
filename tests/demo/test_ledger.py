"""The caller's counts: shares by part, and which answers count as one of the shop."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.demo.ledger import MAX_FAILURES, MAX_HOPS, Hop, Ledger, Part, Result, read_hops, share


def result(part: Part, version: str, *, canary: bool = False, service: str = "orders") -> Result:
    return Result(part, service, canary, 0.002, (Hop(service, version, f"{service}-{version}-0"),))


def answer(*services: str) -> bytes:
    said = None
    for service in reversed(services):
        said = {"service": service, "version": "v1", "instance": f"{service}-0"} | (
            {"below": said} if said else {}
        )
    return json.dumps(said).encode()


def test_each_part_is_counted_by_itself() -> None:
    ledger = Ledger()
    for part, version in [(Part.EVEN, "v2"), (Part.SPLIT, "v1"), (Part.SPLIT, "v2"), (Part.KILL, "v1")]:
        ledger.add(result(part, version))
    ledger.add(result(Part.CANARY, "v2", canary=True))
    assert ledger.versions("orders", (Part.SPLIT,), canary=False) == {"v1": 1, "v2": 1}
    assert ledger.versions("orders", (Part.SPLIT, Part.KILL), canary=False) == {"v1": 2, "v2": 1}
    assert ledger.versions("orders", (Part.CANARY,), canary=True) == {"v2": 1}
    assert ledger.versions("orders", (Part.CANARY,), canary=False) == {}
    assert ledger.versions("payments", tuple(Part), canary=False) == {}
    assert ledger.total == 5
    assert ledger.sent_in[Part.SPLIT] == 2


def test_a_failure_counts_for_no_version_and_is_kept_word_by_word_up_to_a_bound() -> None:
    ledger = Ledger()
    for number in range(MAX_FAILURES + 5):
        ledger.add(Result(Part.KILL, "web", False, 1.0, failure=f"503 number {number}"))
    assert (ledger.total, ledger.failed) == (MAX_FAILURES + 5, MAX_FAILURES + 5)
    assert len(ledger.failures) == MAX_FAILURES
    assert ledger.failures[0] == "kill: web: 503 number 0"
    assert ledger.versions("web", tuple(Part), canary=False) == {}
    assert ledger.percentiles_ms("web") == (None, None)


def test_durations_are_those_of_the_service_that_was_asked() -> None:
    ledger = Ledger()
    for milliseconds in range(1, 101):
        ledger.add(Result(Part.EVEN, "web", False, milliseconds / 1000, (Hop("web", "v1", "web-0"),)))
    p50, p99 = ledger.percentiles_ms("web")
    assert p50 == pytest.approx(50, rel=0.1)
    assert p99 == pytest.approx(99, rel=0.1)
    assert ledger.percentiles_ms("orders") == (None, None)


def test_a_share_of_nothing_is_none() -> None:
    assert share(Counter(), "v1") is None
    assert share(Counter(v1=3, v2=1), "v1") == 0.75
    assert share(Counter(v1=3), "v2") == 0


def test_an_answer_names_everybody_who_took_part() -> None:
    hops = read_hops(answer("web", "orders", "payments"))
    assert [(hop.service, hop.instance) for hop in hops] == [
        ("web", "web-0"),
        ("orders", "orders-0"),
        ("payments", "payments-0"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b'{"service": "web"}',
        b'{"service": "web", "version": "", "instance": "a"}',
        b'{"service": "web", "version": 1, "instance": "a"}',
        json.dumps({"service": "s" * 65, "version": "v1", "instance": "a"}).encode(),
        answer("web")[:-1] + b', "below": "orders"}',
        answer(*["web"] * (MAX_HOPS + 1)),
        b"[" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_no_answer_of_the_shop_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's and ours
        read_hops(body)


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(ValueError):
        assert len(read_hops(body)) <= MAX_HOPS

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.errors import InvalidDocument, NotFound
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.history import diff, rebuild, revert
from busmesh.policy.plain import digest
from busmesh.policy.revision import EMPTY, PolicySet, Revision, RevisionRefused, fold, propose

Make = Callable[..., Document]


def make(name: str, weight: int = 100) -> Document:
    return Document.from_plain(
        {
            "apiVersion": "busmesh/v1",
            "kind": "Route",
            "metadata": {"name": name},
            "spec": {
                "hosts": [name],
                "http": [{"route": [{"destination": {"host": name}, "weight": weight}]}],
            },
        }
    )


def change(current: PolicySet, *put: Document, remove: tuple[DocumentKey, ...] = ()) -> Revision:
    return propose(current, put, remove, author="ana", reason="because", now=1700000000.5)


A, B = make("a"), make("b")


def test_a_revision_says_who_when_why_what_and_where_it_leads() -> None:
    revision = change(EMPTY, B, A)
    after = fold(EMPTY, revision)
    assert (revision.number, revision.author, revision.time_ms) == (1, "ana", 1700000000500)
    assert (revision.previous, revision.digest) == (EMPTY.digest, after.digest)
    assert after.number == 1
    assert list(after.documents) == [A.key, B.key]
    assert (EMPTY.number, len(EMPTY.documents)) == (0, 0)


def test_the_digest_is_that_of_the_canonical_json_of_the_sorted_set() -> None:
    after = fold(EMPTY, change(EMPTY, B, A))
    text = json.dumps([A.plain, B.plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert after.digest == digest(text)
    assert PolicySet(5, {B.key: B, A.key: A}).digest == after.digest, "order and number do not count"


def test_a_set_knows_which_revision_put_each_document() -> None:
    first = fold(EMPTY, change(EMPTY, A, B))
    second = fold(first, change(first, make("a", 50)))
    assert second.put_in == {A.key: 2, B.key: 1}
    third = fold(second, change(second, remove=(A.key,)))
    assert third.put_in == {B.key: 1}
    assert PolicySet(3, third.documents) == third, "what is known of a set does not make another"


def test_a_revision_survives_msgpack_and_json() -> None:
    after = fold(EMPTY, change(EMPTY, A, B))
    revision = change(after, make("a", 50), remove=(B.key,))
    for again in (
        msgpack.unpackb(msgpack.packb(revision.to_plain())),
        json.loads(json.dumps(revision.to_plain())),
    ):
        assert Revision.from_plain(again) == revision


FIRST = fold(EMPTY, change(EMPTY, A))
SECOND = change(FIRST, B)


@pytest.mark.parametrize(
    ("current", "revision", "cause", "code"),
    [
        (EMPTY, SECOND, "gap", "BM2201"),
        (fold(FIRST, SECOND), SECOND, "stale", "BM2202"),
        (fold(fold(FIRST, SECOND), change(fold(FIRST, SECOND), make("c"))), SECOND, "stale", "BM2202"),
        (fold(EMPTY, change(EMPTY, B)), SECOND, "digest", "BM2203"),
        (FIRST, replace(SECOND, digest="0" * 64), "digest", "BM2203"),
        (FIRST, replace(SECOND, put=(make("b", 99),)), "digest", "BM2203"),
        (FIRST, replace(SECOND, remove=(B.key,), put=()), "unknown document", "BM2204"),
        (FIRST, replace(SECOND, remove=(A.key, A.key)), "contradiction", "BM2205"),
        (FIRST, replace(SECOND, put=(B, B)), "contradiction", "BM2205"),
        (FIRST, replace(SECOND, put=(A,), remove=(A.key,)), "contradiction", "BM2205"),
    ],
)
def test_what_does_not_follow_is_refused_and_changes_nothing(
    current: PolicySet, revision: Revision, cause: str, code: str
) -> None:
    before = (current.number, current.digest, dict(current.documents))
    with pytest.raises(RevisionRefused) as caught:
        fold(current, revision)
    assert (caught.value.cause, caught.value.code) == (cause, code)
    assert (current.number, current.digest, dict(current.documents)) == before


def test_of_two_operators_who_publish_at_once_one_wins() -> None:
    mine, theirs = change(FIRST, B), change(FIRST, make("c"))
    after = fold(FIRST, theirs)
    with pytest.raises(RevisionRefused) as caught:
        fold(after, mine)
    assert caught.value.cause == "stale"
    assert "publish again" in caught.value.hint


def test_a_proposal_that_cannot_be_folded_is_not_made() -> None:
    for put, remove, cause in (
        ((), (), "contradiction"),
        ((), (B.key,), "unknown document"),
        ((A,), (A.key,), "contradiction"),
        (tuple(make(f"r{index}", 1) for index in range(5000)), (), "too large"),
    ):
        with pytest.raises(RevisionRefused) as caught:
            change(FIRST, *put, remove=remove)
        assert caught.value.cause == cause


@pytest.mark.parametrize("reason", ["x" * 1025, "\x1b[2J", "a\x00"])
def test_a_reason_is_short_and_printable(reason: str) -> None:
    with pytest.raises(InvalidDocument, match=r"BM2207|BM1104"):
        propose(EMPTY, [A], [], author="ana", reason=reason, now=0)


@pytest.mark.parametrize(
    "broken",
    [
        {"format": 2},
        {"format": "1"},
        {"number": 0},
        {"number": True},
        {"number": 1.0},
        {"number": 2**60},
        {"author": ""},
        {"author": "a\nb"},
        {"time_ms": -1},
        {"reason": None},
        {"put": {}},
        {"put": [{}]},
        {"put": [3]},
        {"remove": [["Route", "default"]]},
        {"remove": [["Pod", "default", "a"]]},
        {"digest": "0" * 63},
        {"previous": "G" * 64},
        {"surprise": 1},
    ],
)
def test_a_revision_from_the_bus_is_read_strictly(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        Revision.from_plain({**change(EMPTY, A).to_plain(), **broken})


@pytest.mark.parametrize("hostile", [None, [], 1, "x", {}, {"format": 1}, {1: 2}, {"format": float("nan")}])
def test_what_is_no_revision_is_refused(hostile: object) -> None:
    with pytest.raises(InvalidDocument):
        Revision.from_plain(hostile)


def test_a_revision_from_the_bus_has_a_size() -> None:
    plain = change(EMPTY, A).to_plain()
    plain["put"] = [{**plain["put"][0], "metadata": {"name": "a", "labels": {"x": "y" * 600_000}}}]
    with pytest.raises(InvalidDocument, match="BM2206"):
        Revision.from_plain(plain)


NAMES = st.sampled_from(["a", "b", "c", "d"])
CHANGES = st.lists(
    st.tuples(st.dictionaries(NAMES, st.integers(1, 3), max_size=3), st.sets(NAMES, max_size=2)), max_size=12
)


@given(CHANGES, st.data())
@settings(deadline=None, max_examples=60)
def test_folding_one_by_one_equals_rebuilding_and_every_revision_can_be_gone_back_to(
    changes: list[tuple[dict[str, int], set[str]]], data: st.DataObject
) -> None:
    model: dict[str, int] = {}
    stages, current, history = [dict(model)], EMPTY, []
    for put, remove in changes:
        removed = [name for name in sorted(remove) if name in model and name not in put]
        if not put and not removed:
            continue
        revision = change(
            current,
            *(make(name, weight) for name, weight in put.items()),
            remove=tuple(make(name).key for name in removed),
        )
        history.append(Revision.from_plain(msgpack.unpackb(msgpack.packb(revision.to_plain()))))
        current = fold(current, history[-1])
        model = {name: weight for name, weight in model.items() if name not in removed} | put
        stages.append(dict(model))
    expected = PolicySet(len(history), {make(name).key: make(name, weight) for name, weight in model.items()})
    assert rebuild(history) == current == expected
    to_number = data.draw(st.integers(0, len(history)))
    put_back, taken = revert(history, to_number)
    then = rebuild(history, to_number)
    assert {document.key.name for document in then.documents.values()} == set(stages[to_number])
    if put_back or taken:
        back = fold(current, change(current, *put_back, remove=tuple(taken)))
        assert back.digest == then.digest
        assert back.number == len(history) + 1
        assert diff(then, current) != []
    else:
        assert current.digest == then.digest
        assert diff(then, current) == []


def test_there_is_no_way_back_to_a_revision_that_never_was() -> None:
    for number in (-1, 2):
        with pytest.raises(NotFound):
            revert([change(EMPTY, A)], number)


def test_a_log_with_a_gap_is_not_rebuilt() -> None:
    with pytest.raises(RevisionRefused):
        rebuild([SECOND])


def test_a_diff_shows_documents_as_yaml() -> None:
    after = fold(FIRST, change(FIRST, make("a", 90), B))
    lines = diff(FIRST, after)
    assert lines[:2] == ["--- Route/a (revision 1)", "+++ Route/a (revision 2)"]
    assert "-      weight: 100" in lines
    assert "+      weight: 90" in lines
    assert "--- (absent)" in lines
    assert "+++ Route/b (revision 2)" in lines
    assert diff(after, after) == []
    assert "+++ (absent)" in diff(after, FIRST)


def test_a_set_shows_its_number_and_counts() -> None:
    assert repr(FIRST).startswith("<PolicySet number=1 documents=1 digest=")

"""The body of a request through its tries: each gets it whole, and it is kept no longer than needed."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busmesh.relay.flow import MAX_WINDOW, Gate
from busmesh.relay.upload import KEPT, Upload
from busmesh.wire.frame import Kind
from busmesh.wire.stream import INITIAL_CREDIT, decode_data, decode_end
from tests.relay.bodies import pattern
from tests.relay.test_flow import SIZES, Tap

ROOM = 200_000


class Try:
    """What one instance gets."""

    def __init__(self) -> None:
        self.body = b""
        self.trailers: bytes | None = None

    def emit(self, kind: Kind, plaintext: bytes) -> None:
        assert self.trailers is None, "something behind the end"
        if kind is Kind.END:
            self.trailers = decode_end(plaintext)[1]
        else:
            self.body += decode_data(plaintext)[1]


class Client:
    """A source and its upload, over a bus that takes everything or nothing."""

    def __init__(self, first: bytes = b"") -> None:
        self.congested = False
        self.source = Tap()
        self.gate = Gate(lambda: self.congested)
        self.sent = 0
        self.upload = Upload(first, self.source, self.gate, 40_000, self._sent)

    def _sent(self) -> None:
        self.sent += 1

    def begin(self) -> Try:
        made = Try()
        made.body = self.upload.begin(made.emit, ROOM)
        self.upload.proceed()
        return made

    def free(self) -> None:
        self.congested = False
        self.gate.open()

    @property
    def kept(self) -> int:
        found = re.search(r"kept=(\w+)", repr(self.upload))
        assert found is not None
        return 0 if found[1] == "none" else int(found[1])


def test_each_try_gets_the_body_from_its_beginning() -> None:
    client = Client(pattern(0, 1000))
    first = client.begin()
    client.upload.write(pattern(1000, 500))
    assert first.body == pattern(0, 1500)
    second = client.begin()
    client.upload.write(pattern(1500, 500))
    client.upload.end(b"X: y\r\n")
    third = client.begin()
    assert (first.body, first.trailers) == (pattern(0, 1500), None)
    assert (second.body, second.trailers) == (pattern(0, 2000), b"X: y\r\n")
    assert (third.body, third.trailers) == (pattern(0, 2000), b"X: y\r\n")
    assert client.upload.size == 2000


@pytest.mark.parametrize(
    ("size", "repeatable"), [(0, True), (KEPT, True), (KEPT + 1, False), (KEPT + 50_000, False)]
)
def test_a_body_is_kept_until_it_is_taken_and_a_small_one_longer(size: int, repeatable: bool) -> None:
    client = Client(pattern(0, size))
    client.begin()
    assert client.upload.repeatable
    client.upload.grant(INITIAL_CREDIT + MAX_WINDOW)
    assert client.upload.repeatable is repeatable
    assert client.kept == (size if repeatable else 0)


def test_what_was_small_when_it_was_taken_is_let_go_when_it_has_grown() -> None:
    client = Client(pattern(0, 10))
    client.begin()
    client.upload.grant(1_000_000)
    client.upload.write(pattern(10, KEPT))
    assert client.upload.repeatable
    client.upload.grant(1_000_000)
    assert not client.upload.repeatable


def test_a_body_is_not_sent_again_from_its_middle() -> None:
    client = Client(pattern(0, KEPT + 1))
    client.begin()
    client.upload.grant(1_000_000)
    with pytest.raises(AssertionError, match="repeatable"):
        client.begin()


def test_the_end_is_told_once_for_each_try() -> None:
    client = Client(b"abc")
    client.begin()
    assert (client.sent, client.upload.ended) == (0, False)
    client.upload.end(b"")
    assert (client.sent, client.upload.ended) == (1, True)
    client.upload.grant(1_000_000)
    client.upload.proceed()
    assert client.sent == 1
    client.upload.stop()
    assert not client.upload.ended
    client.begin()
    assert (client.sent, client.upload.ended) == (2, True)


def test_the_end_is_told_when_a_congested_bus_lets_it_out() -> None:
    """From then on time runs for the answer."""
    client = Client(b"")
    tried = client.begin()
    client.congested = True
    client.upload.write(b"abc")
    client.upload.end(b"")
    assert (client.sent, client.upload.ended) == (0, False)
    client.free()
    assert (client.sent, client.upload.ended, tried.body) == (1, True, b"abc")


@pytest.mark.parametrize("retried", [False, True])
def test_a_client_is_read_on_when_its_body_is_here_though_it_is_not_sent(retried: bool) -> None:
    """What it sends then is another request; an answer may come before the body is gone."""
    client = Client(pattern(0, INITIAL_CREDIT))
    tried = client.begin()
    client.upload.write(b"x" * 10)
    assert client.source.paused
    client.upload.end(b"")
    assert not client.source.paused
    told = client.source.told
    again = client.begin() if retried else tried
    client.upload.grant(INITIAL_CREDIT + 5)
    assert (len(again.body), again.trailers) == (INITIAL_CREDIT + 5, None)
    client.upload.grant(1_000_000)
    assert (len(again.body), again.trailers) == (INITIAL_CREDIT + 10, b"")
    assert client.source.told == told, "that other request may have reasons of its own to pause it"


def test_the_next_try_reads_on_where_the_last_one_was_stuck() -> None:
    client = Client()
    client.begin()
    client.congested = True
    client.upload.write(b"abc")
    assert client.source.paused
    client.upload.stop()
    client.congested = False
    assert client.begin().body == b"abc"
    assert not client.source.paused


def test_a_client_waits_with_its_body_while_there_is_no_try() -> None:
    """An instance may take seconds to be found, and a client can send gigabytes meanwhile."""
    client = Client()
    client.upload.write(pattern(0, KEPT))
    assert not client.source.paused
    client.upload.write(pattern(KEPT, 1))
    assert client.source.paused
    tried = client.begin()
    assert client.source.paused, "one byte more than is granted"
    client.upload.grant(KEPT + 1)
    assert not client.source.paused
    assert tried.body == pattern(0, KEPT + 1)


def test_a_client_that_waited_and_gave_all_is_read_on() -> None:
    client = Client()
    client.upload.write(pattern(0, KEPT + 1))
    client.upload.end(b"")
    assert not client.source.paused


def test_a_try_that_ended_gets_nothing_more() -> None:
    client = Client(b"abc")
    first = client.begin()
    client.upload.stop()
    client.upload.write(b"def")
    client.upload.end(b"")
    assert (first.body, first.trailers, client.sent) == (b"abc", None, 0)
    assert client.begin().body == b"abcdef"


def test_a_try_that_ended_gets_nothing_of_what_waited_for_the_bus() -> None:
    client = Client()
    first = client.begin()
    client.congested = True
    client.upload.write(b"abc")
    second = client.begin()
    client.free()
    assert (first.body, second.body) == (b"", b"abc")


def test_after_the_last_try_nothing_is_kept() -> None:
    client = Client(b"abc")
    tried = client.begin()
    client.upload.close()
    client.upload.write(pattern(0, 1_000_000))
    client.upload.end(b"")
    assert (tried.body, tried.trailers, client.sent, client.kept) == (b"abc", None, 0, 0)
    assert not client.source.paused


class Tries(RuleBasedStateMachine):
    """One body, any number of tries, and instances that take as they like."""

    @initialize(first=SIZES)
    def come(self, first: int) -> None:
        self.client = Client(pattern(0, first))
        self.came = self.largest = first
        self.tried: Try | None = None
        self.granted = INITIAL_CREDIT
        self.late = False

    @precondition(lambda self: not self.client.upload.complete)
    @precondition(lambda self: not (self.client.source.paused and self.late))
    @rule(size=SIZES)
    def write(self, size: int) -> None:
        self.late = self.client.source.paused
        self.client.upload.write(pattern(self.came, size))
        self.came += size
        self.largest = max(self.largest, size)

    @precondition(lambda self: not self.client.upload.complete)
    @rule()
    def end(self) -> None:
        self.client.upload.end(b"X: y\r\n")

    @precondition(lambda self: self.client.upload.repeatable)
    @rule()
    def another_try(self) -> None:
        self.tried = self.client.begin()
        self.granted = INITIAL_CREDIT

    @precondition(lambda self: self.tried is not None)
    @rule()
    def the_try_fails(self) -> None:
        self.client.upload.stop()
        self.tried = None

    @precondition(lambda self: self.tried is not None)
    @rule()
    def grant(self) -> None:
        assert self.tried is not None
        self.granted = len(self.tried.body) + MAX_WINDOW
        self.client.upload.grant(self.granted)

    @rule(congested=st.booleans())
    def bus(self, congested: bool) -> None:
        self.client.congested = congested
        self.client.gate.open()

    @invariant()
    def the_try_has_the_body_from_its_beginning(self) -> None:
        if self.tried is not None:
            assert self.tried.body == pattern(0, len(self.tried.body))
            assert len(self.tried.body) <= min(self.came, self.granted)
            if self.tried.trailers is not None:
                assert len(self.tried.body) == self.came
                assert self.client.upload.complete

    @invariant()
    def what_may_go_has_gone(self) -> None:
        if self.tried is not None and not self.client.congested:
            assert len(self.tried.body) == min(self.came, self.granted)
            done = self.client.upload.complete and len(self.tried.body) == self.came
            assert (self.tried.trailers is not None) is done

    @invariant()
    def the_client_waits_if_nobody_takes_more_and_only_then(self) -> None:
        waits = self.came > KEPT if self.tried is None else len(self.tried.body) < self.came
        paused = self.client.source.paused
        assert not (paused and self.client.upload.complete)
        if not self.client.upload.complete and self.tried is not None:
            assert paused is waits
        elif paused:
            assert waits

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.client.kept <= KEPT + MAX_WINDOW + 3 * self.largest


Tries.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTries = Tries.TestCase

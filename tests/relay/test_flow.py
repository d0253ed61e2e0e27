"""Flow control against a model: the bytes and their order, what is granted, who waits, and memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from busmesh.errors import RemoteProtocolError
from busmesh.relay.flow import MAX_WINDOW, Gate, Receiver, Sender, Windows
from busmesh.wire.frame import Kind
from busmesh.wire.stream import (
    INITIAL_CREDIT,
    decode_credit,
    decode_data,
    decode_end,
)
from tests.relay.bodies import pattern

ROOM = 200_000
CHUNK = 40_000


class Tap:
    """A source: notes whether it is to bring more, and how often it was told."""

    def __init__(self) -> None:
        self.paused = False
        self.told = 0

    def pause_reading(self) -> None:
        self.paused = True
        self.told += 1

    def resume_reading(self) -> None:
        self.paused = False
        self.told += 1


class Half:
    """A sender, what it writes, and a bus whose congestion belongs to the test."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self.frames: deque[tuple[Kind, bytes]] = deque()
        self.congested = False
        self.gate = Gate(lambda: self.congested)
        self.source = Tap()
        self.done = 0
        self.sender = Sender(self._emit, self.source, self.gate, chunk, self._done)

    def _emit(self, kind: Kind, data: bytes) -> None:
        self.frames.append((kind, data))

    def _done(self) -> None:
        self.done += 1

    def numbers(self) -> list[int]:
        return [decode_data(data)[0] for _, data in self.frames]

    def body(self) -> bytes:
        """Return what the DATA frames hold."""
        return b"".join(decode_data(data)[1] for kind, data in self.frames if kind is Kind.DATA)

    def kinds(self) -> list[Kind]:
        return [kind for kind, _ in self.frames]

    def free(self) -> None:
        self.congested = False
        self.gate.open()


# -- sending ---------------------------------------------------------------------------------------


def test_what_is_granted_goes_out_in_numbered_frames_and_the_rest_waits() -> None:
    half = Half()
    half.sender.write(pattern(0, 100_000))
    assert half.kinds() == [Kind.DATA, Kind.DATA]
    assert half.numbers() == [0, 1]
    assert half.body() == pattern(0, INITIAL_CREDIT)
    assert half.source.paused
    half.sender.grant(100_000)
    assert half.numbers() == [0, 1, 2]
    assert half.body() == pattern(0, 100_000)
    assert not half.source.paused


def test_the_opening_takes_what_it_has_room_for_and_no_more_than_is_granted() -> None:
    for room, data, first in [
        (ROOM, 10, 10),
        (ROOM, 100_000, INITIAL_CREDIT),
        (1000, 100_000, 1000),
        (0, 10, 0),
        (-50, 10, 0),
    ]:
        half = Half()
        assert half.sender.first(pattern(0, data), room) == pattern(0, first)
        assert half.frames == deque(), "the opening goes before any part"
        half.sender.grant(data)
        half.sender.flush()
        assert pattern(0, first) + half.body() == pattern(0, data)
        assert half.sender.size == data


def test_the_end_goes_behind_all_that_waits_and_is_told_once() -> None:
    half = Half()
    half.sender.write(pattern(0, INITIAL_CREDIT + 1))
    half.sender.end(b"X: y\r\n")
    half.sender.end(b"X: y\r\n")
    assert (Kind.END in half.kinds(), half.sender.ended, half.done) == (False, False, 0)
    half.sender.grant(INITIAL_CREDIT + 1)
    half.sender.flush()
    assert half.kinds() == [Kind.DATA, Kind.DATA, Kind.DATA, Kind.END]
    assert decode_end(half.frames[-1][1]) == (3, b"X: y\r\n")
    assert (half.sender.ended, half.done) == (True, 1)


def test_the_end_that_a_congested_bus_held_back_is_told_when_it_goes_out() -> None:
    """Else nobody would know that the body is whole: no time would run for the answer, and no work end."""
    half = Half()
    half.congested = True
    half.sender.write(b"abc")
    half.sender.end()
    assert (half.kinds(), half.done) == ([], 0)
    half.free()
    assert (half.kinds(), half.done) == ([Kind.DATA, Kind.END], 1)


def test_an_end_without_body_needs_neither_credit_nor_a_free_bus() -> None:
    half = Half()
    half.congested = True
    half.sender.end()
    assert half.kinds() == [Kind.END]


def test_nothing_is_sent_for_nothing() -> None:
    """In chunks a part without bytes would be the end."""
    half = Half()
    half.sender.write(b"")
    assert half.frames == deque()
    assert not half.source.paused


def test_an_older_grant_that_comes_late_takes_nothing_back() -> None:
    half = Half()
    half.sender.grant(INITIAL_CREDIT + 100)
    half.sender.grant(INITIAL_CREDIT + 10)
    half.sender.grant(0)
    half.sender.write(pattern(0, INITIAL_CREDIT + 100))
    assert half.body() == pattern(0, INITIAL_CREDIT + 100)


def test_a_source_that_has_brought_all_is_let_go() -> None:
    half = Half()
    half.sender.write(pattern(0, INITIAL_CREDIT + 50_000))
    assert half.source.paused
    half.sender.detach()
    assert (half.source.paused, half.source.told) == (False, 2)
    half.sender.grant(INITIAL_CREDIT + 10)
    half.sender.grant(INITIAL_CREDIT + 50_000)
    assert half.source.told == 2, "it is somebody else's, who may have paused it"


def test_a_closed_sender_sends_nothing_more() -> None:
    half = Half()
    half.congested = True
    half.sender.write(b"abc")
    half.sender.close()
    half.free()
    half.sender.grant(1_000_000)
    half.sender.write(b"def")
    half.sender.end()
    half.sender.flush()
    assert half.frames == deque()
    assert (len(half.gate), half.done) == (0, 0)


# -- the bus ---------------------------------------------------------------------------------------


def test_a_congested_bus_takes_nothing_and_all_that_waited_get_a_turn() -> None:
    congested = True
    gate = Gate(lambda: congested)
    order: list[str] = []

    def sender(name: str) -> Sender:
        return Sender(lambda kind, data: order.append(name), Tap(), gate, CHUNK, lambda: None)

    senders = {name: sender(name) for name in "abc"}
    for name in "bac":
        senders[name].write(b"x")
        senders[name].write(b"y")
    senders["a"].close()
    assert (order, len(gate)) == ([], 2)
    congested = False
    gate.open()
    assert (order, len(gate)) == (["b", "b", "c", "c"], 0)


def test_a_bus_that_is_congested_again_at_once_keeps_those_that_wait() -> None:
    half = Half(chunk=10)
    half.congested = True
    half.sender.write(b"x" * 30)
    half.gate.open()
    assert half.frames == deque()
    assert len(half.gate) == 1
    assert half.source.paused
    half.free()
    assert half.numbers() == [0, 1, 2]
    assert not half.source.paused


# -- receiving -------------------------------------------------------------------------------------


class Till:
    """A receiver and what it grants."""

    def __init__(self, windows: Windows | None = None) -> None:
        self.grants: list[int] = []
        self.windows = windows or Windows()
        self.receiver = Receiver(self._emit, self.windows)

    def _emit(self, kind: Kind, data: bytes) -> None:
        assert kind is Kind.CREDIT
        self.grants.append(decode_credit(data))

    def take(self, number: int, size: int) -> None:
        self.receiver.data(number, size)
        self.receiver.placed()


def test_what_is_placed_is_granted_again_in_halves_of_the_window() -> None:
    till = Till()
    till.take(0, 10)
    assert till.grants == [10 + MAX_WINDOW]
    till.take(1, MAX_WINDOW // 2 - 1)
    assert len(till.grants) == 1
    till.take(2, 1)
    assert till.grants[1:] == [10 + MAX_WINDOW // 2 + MAX_WINDOW]


def test_nothing_is_granted_while_the_reader_is_behind_nor_after_the_end() -> None:
    till = Till()
    till.receiver.pause()
    till.take(0, INITIAL_CREDIT)
    assert till.grants == []
    till.receiver.resume()
    assert till.grants == [INITIAL_CREDIT + MAX_WINDOW]
    ended = Till()
    ended.receiver.data(0, 10)
    ended.receiver.end(1)
    ended.receiver.placed()
    assert ended.grants == []


@pytest.mark.parametrize("number", [1, 2, 0xFFFFFFFF])
def test_a_gap_is_noticed(number: int) -> None:
    with pytest.raises(RemoteProtocolError, match="where 0 comes next"):
        Till().receiver.data(number, 1)
    with pytest.raises(RemoteProtocolError, match="where 0 comes next"):
        Till().receiver.end(number)


def test_a_part_that_comes_twice_is_noticed() -> None:
    till = Till()
    till.take(0, 1)
    with pytest.raises(RemoteProtocolError):
        till.receiver.data(0, 1)
    till.receiver.end(1)
    for late in (lambda: till.receiver.end(1), lambda: till.receiver.data(1, 1)):
        with pytest.raises(RemoteProtocolError):
            late()


def test_more_than_was_granted_is_noticed() -> None:
    Till().receiver.opened(INITIAL_CREDIT)
    with pytest.raises(RemoteProtocolError, match="granted"):
        Till().receiver.opened(INITIAL_CREDIT + 1)
    till = Till()
    till.take(0, INITIAL_CREDIT)
    till.receiver.pause()
    till.take(1, MAX_WINDOW)
    with pytest.raises(RemoteProtocolError, match="granted"):
        till.receiver.data(2, 1)


def test_a_part_that_holds_nothing_is_refused() -> None:
    """Written on as a chunk it would be the end of the body, and what follows it another message."""
    with pytest.raises(RemoteProtocolError, match="nothing"):
        Till().receiver.data(0, 0)


def test_a_sender_that_may_wait_for_a_lost_grant_is_reminded() -> None:
    till = Till()
    till.receiver.remind()
    assert till.grants == [], "it has not used what it had from the beginning"
    till.take(0, 10)
    till.receiver.remind()
    assert len(till.grants) == 1, "nor now, whether it has heard or not"
    till.receiver.pause()
    till.take(1, INITIAL_CREDIT - 10)
    till.receiver.remind()
    assert till.grants == [10 + MAX_WINDOW] * 2
    till.take(2, 10 + MAX_WINDOW - INITIAL_CREDIT)
    till.receiver.remind()
    assert len(till.grants) == 2, "all was used, and there is no more while the reader is behind"
    till.receiver.resume()
    till.receiver.end(3)
    till.receiver.remind()
    assert len(till.grants) == 3, "the one on resuming"


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "size"),
    [
        (0, MAX_WINDOW),
        (1, MAX_WINDOW),
        (64, MAX_WINDOW),
        (128, MAX_WINDOW // 2),
        (1024, INITIAL_CREDIT),
        (100_000, INITIAL_CREDIT),
    ],
)
def test_a_window_is_a_share_of_the_budget(streams: int, size: int) -> None:
    windows = Windows()
    windows.streams = streams
    assert windows.size() == size


@given(
    st.lists(st.tuples(st.integers(0, 19), st.booleans(), st.integers(1, MAX_WINDOW)), max_size=200),
    st.integers(1, 40),
)
def test_all_streams_together_hold_no_more_than_the_budget(
    moves: list[tuple[int, bool, int]], shares: int
) -> None:
    """However streams come, how far they are read, and who stands still with what was granted before."""
    windows = Windows(budget=shares * INITIAL_CREDIT)
    tills: dict[int, Till] = {}
    for number, reads, size in moves:
        till = tills.get(number)
        if till is None:
            till = tills[number] = Till(windows)
        (till.receiver.resume if reads else till.receiver.pause)()
        granted = till.grants[-1] if till.grants else INITIAL_CREDIT
        if take := min(size, granted - till.receiver.size):
            till.take(till.receiver._expected, take)
        held = sum(
            (each.grants[-1] if each.grants else INITIAL_CREDIT) - each.receiver._released
            for each in tills.values()
        )
        assert windows.held == held
        assert held <= windows.budget + len(tills) * INITIAL_CREDIT
    for till in tills.values():
        till.receiver.close()
    assert (windows.streams, windows.held) == (0, 0)


def test_windows_are_given_back() -> None:
    windows = Windows(budget=4 * INITIAL_CREDIT)
    tills = [Till(windows) for _ in range(4)]
    assert windows.size() == INITIAL_CREDIT
    for till in tills[1:]:
        till.receiver.close()
    assert (windows.streams, windows.held) == (1, INITIAL_CREDIT)
    assert windows.size(own=INITIAL_CREDIT) == 4 * INITIAL_CREDIT


# -- both halves -----------------------------------------------------------------------------------


SIZES = st.sampled_from([0, 1, 999, 50_000, 70_000, 300_000]) | st.integers(0, 700_000)


class Body(RuleBasedStateMachine):
    """One body on its way, over a bus that loses nothing but grants, to a reader that has its moods."""

    @initialize(
        first=SIZES,
        room=st.sampled_from([0, 1000, ROOM]),
        chunk=st.sampled_from([1000, CHUNK, 131_072]),
    )
    def begin(self, first: int, room: int, chunk: int) -> None:
        self.half = Half(chunk)
        self.grants: deque[int] = deque()
        self.windows = Windows(budget=16 * INITIAL_CREDIT)
        self.receiver = Receiver(lambda kind, data: self.grants.append(decode_credit(data)), self.windows)
        self.granted = INITIAL_CREDIT
        self.written = first
        self.placed = 0
        self.largest = first
        self.ending = self.late = False
        self.place(self.half.sender.first(pattern(0, first), room))
        self.half.sender.flush()

    def place(self, data: bytes) -> None:
        assert data == pattern(self.placed, len(data)), "other bytes than were written"
        self.placed += len(data)
        if data:
            self.receiver.opened(len(data))
            self.receiver.placed()

    @property
    def waiting(self) -> int:
        return self.written - self.half.sender.size

    @precondition(lambda self: not self.ending and not (self.half.source.paused and self.late))
    @rule(size=SIZES)
    def write(self, size: int) -> None:
        """A source that is paused has perhaps read once more."""
        self.late = self.half.source.paused
        self.half.sender.write(pattern(self.written, size))
        self.written += size
        self.largest = max(self.largest, size)

    @precondition(lambda self: not self.ending)
    @rule()
    def end(self) -> None:
        self.ending = True
        self.half.sender.end(b"X: y\r\n")

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.half.frames))):
            kind, plaintext = self.half.frames.popleft()
            if kind is Kind.END:
                number, trailers = decode_end(plaintext)
                self.receiver.end(number)
                assert trailers == b"X: y\r\n"
                assert self.placed == self.written
                continue
            number, data = decode_data(plaintext)
            self.receiver.data(number, len(data))
            assert data == pattern(self.placed, len(data)), "other bytes than were written"
            self.placed += len(data)
            self.receiver.placed()

    @precondition(lambda self: self.grants)
    @rule(fate=st.sampled_from(["comes", "comes twice", "is lost", "comes late"]))
    def grant(self, fate: str) -> None:
        total = self.grants.popleft()
        if fate == "comes late":
            self.grants.append(total)
        elif fate != "is lost":
            self.granted = max(self.granted, total)
            for _ in range(1 + (fate == "comes twice")):
                self.half.sender.grant(total)

    @rule(congested=st.booleans())
    def bus(self, congested: bool) -> None:
        self.half.congested = congested
        self.half.gate.open()

    @rule(behind=st.booleans())
    def reader(self, behind: bool) -> None:
        if behind:
            self.receiver.pause()
        else:
            self.receiver.resume()

    @rule()
    def settle(self) -> None:
        """All that may be sent arrives."""
        self.half.free()
        while self.half.frames:
            self.deliver(100)

    @rule(streams=st.sampled_from([1, 2, 5, 16, 100]))
    def other_streams(self, streams: int) -> None:
        self.windows.streams = streams

    @invariant()
    def nothing_is_sent_before_it_is_granted(self) -> None:
        assert self.half.sender.size <= self.granted

    @invariant()
    def the_source_is_paused_while_bytes_wait(self) -> None:
        if not self.ending:
            assert self.half.source.paused == (self.waiting > 0)

    @invariant()
    def memory_is_bounded(self) -> None:
        under_way = self.half.sender.size - self.placed
        assert under_way <= MAX_WINDOW
        assert self.waiting <= 2 * self.largest

    @invariant()
    def the_end_is_the_end(self) -> None:
        assert self.half.done == self.half.sender.ended == (self.half.done > 0)
        if self.half.sender.ended:
            assert self.ending
            assert self.waiting == 0

    def teardown(self) -> None:
        """The reader catches up, the bus is free, grants come, or are said again once a second."""
        if not hasattr(self, "half"):
            return
        self.windows.streams = 1
        self.receiver.resume()
        self.half.free()
        for _ in range(10_000):
            self.receiver.remind()
            if not (self.half.frames or self.grants):
                break
            self.deliver(100)
            while self.grants:
                self.grant("comes")
        assert self.placed == self.written
        assert not self.half.source.paused
        assert self.receiver.ended == self.ending


Body.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBody = Body.TestCase


HURTS: dict[str, Callable[[list[tuple[Kind, bytes]], int], None]] = {
    "lost": lambda frames, at: frames.__delitem__(at),
    "doubled": lambda frames, at: frames.insert(at, frames[at]),
    "late": lambda frames, at: frames.insert(at + 1, frames.pop(at)),
}


@pytest.mark.parametrize(
    ("hurt", "at"), [(hurt, at) for hurt in HURTS for at in range(5) if (hurt, at) != ("late", 4)]
)
def test_a_part_that_is_lost_doubled_or_late_is_noticed_before_what_follows_it(hurt: str, at: int) -> None:
    half = Half(chunk=10_000)
    half.sender.write(pattern(0, 40_000))
    half.sender.end()
    frames = list(half.frames)
    assert len(frames) == 5
    HURTS[hurt](frames, at)
    till, placed = Till(), 0

    def feed() -> None:
        nonlocal placed
        for kind, plaintext in frames:
            if kind is Kind.END:
                till.receiver.end(decode_end(plaintext)[0])
                continue
            number, data = decode_data(plaintext)
            till.receiver.data(number, len(data))
            placed += len(data)
            till.receiver.placed()

    if (hurt, at) == ("lost", 4):
        feed()
        assert not till.receiver.ended, "without its end a body is not whole"
        return
    with pytest.raises(RemoteProtocolError):
        feed()
    assert placed == min(at + (hurt == "doubled"), 4) * 10_000

"""Whatever bytes come from clients, applications and peers, they are understood or refused; nothing else.

Each property runs for BUSMESH_PROOF_SECONDS, a minute by default: requests and responses that were damaged
mean the same whole and cut at any place, and no decoder raises anything but what it promises. The ordinary
suite holds the same for some hundred examples each.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.names import SpiffeId
from busmesh.relay.application.call import AppResponse
from busmesh.relay.client.refusals import Limits
from busmesh.wire.frame import FrameError, Kind, Session, read_header
from busmesh.wire.http import decode_response, encode_response
from busmesh.wire.stream import Opening, decode_end, encode_end
from tests.decoders.wires import WIRES
from tests.proofs.fuzzing import LONG, SECONDS, keep_on
from tests.relay.application.test_connection import Desk, Taker, ask, judge, opened, outcome_of, streams
from tests.relay.client.test_parsing import check, conversations, told, upgraded
from tests.relay.transcript import parse
from tests.support.damage import cuts, damaged

pytestmark = [pytest.mark.timeout(5 * SECONDS + 60), pytest.mark.usefixtures("no_turns")]

WORDS = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b": ", b",", b"0\r\n\r\n",
    b"3\r\nabc\r\n", b"ffffffffffffffff\r\n", b"1;a=b\r\n", b"1;a=\"\r\n\"\r\n", b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 70000\r\n", b"content-length:3 \r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n", b"Host: orders\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\n", b"Connection: keep-alive, x-a\r\n", b"Upgrade: websocket\r\n",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"X-A: 1\r\n", b" folded\r\n", b"X_Busmesh_A: 1\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET / HTTP/1.1\r\n", b"CONNECT a:80 HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST http://orders/ HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 S\r\n", b"HTTP/1.1 204 N\r\n\r\n",
    b"HTTP/1.1 304 N\r\n\r\n", b"x" * 1000, b"\xff\xfe", b"\xc3\xa9", b"_", b"a:\r\n" * 60,
]  # fmt: skip
SMALL = Limits(body=50, whole=8, header_bytes=200, header_count=5, tunnels=False)


def proof_that_a_damaged_request_means_the_same_however_it_is_cut() -> None:
    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        sent = data.draw(damaged(conversations(), WORDS))
        whole = parse(sent, end=True)
        cut = parse(*data.draw(cuts(sent)), end=True)
        check(whole)
        check(cut)
        assert told(cut) == told(whole)
        assert [answer.code for answer in cut.refusals] == [answer.code for answer in whole.refusals]
        ends = [t for r, t in zip(whole.requests, whole.trailers, strict=True) if not upgraded(r)]
        assert None not in ends[: len(ends) - len(whole.refusals)], "only what is refused has no end"

    keep_on(attempt)


def proof_that_small_limits_end_in_requests_or_one_refusal() -> None:
    """How much may come before a limit is noticed depends on the cut; that it is one refusal does not."""

    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        sent = data.draw(damaged(conversations(), WORDS))
        check(parse(*data.draw(cuts(sent)), end=True, limits=SMALL))

    keep_on(attempt)


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readings of the same bytes are compared, and a second may begin between them."""
    monkeypatch.setattr("busmesh.relay.application.parsing.date_line", lambda: b"date: now\r\n")


METHODS = st.sampled_from(["GET", "HEAD", "POST"])
OPENINGS = st.sampled_from([None, Opening(), Opening(3, True), Opening(upgrade=b"x")])


def proof_that_a_damaged_response_ends_a_call_once() -> None:
    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        sent = data.draw(damaged(streams(), WORDS))
        method = data.draw(METHODS)
        found = []
        for pieces in ([sent], data.draw(cuts(sent))):
            desk = ask(*pieces, method=method)
            if not desk.transport.is_lost():
                desk.transport.lose()
            assert desk.forgotten == 1
            [result] = desk.ended
            if isinstance(result, AppResponse):
                judge(desk)
            found.append(result if isinstance(result, AppResponse) else type(result))
        assert found[0] == found[1]

    keep_on(attempt)


def proof_that_a_damaged_response_in_parts_ends_once_and_the_same() -> None:
    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        sent = data.draw(damaged(streams(), WORDS))
        method, opening = data.draw(METHODS), data.draw(OPENINGS)
        found = []
        for pieces in ([sent], data.draw(cuts(sent))):
            desk, taker = Desk(), Taker()
            opened(desk, taker, method, opening)
            desk.send(*pieces)
            if not desk.transport.is_lost():
                desk.transport.lose()
            assert len(desk.ended) + taker.over == 1
            assert desk.forgotten == 1
            if taker.head is not None:
                head = taker.head
                decode_response(encode_response(head.status, head.reason, head.headers, b""), range(100, 600))
                assert decode_end(encode_end(0, taker.trailers)) == (0, taker.trailers)
            found.append(outcome_of(desk, taker))
        whole, cut = found
        assert cut[0] == whole[0]
        if whole[0] == "response":
            assert cut == whole

    keep_on(attempt)


#: The decoders that keep nothing from one message to the next, each with messages that it takes.
_CASES = [
    (decoder.read, message)
    for decoder in WIRES
    if decoder.refuses == (RemoteProtocolError,)
    for message in decoder.whole
]


def proof_that_decoders_refuse_cleanly() -> None:
    """What a decoder takes, it takes the same way again; what it does not take raises what it promises."""

    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        decode, message = data.draw(st.sampled_from(_CASES))
        sent = data.draw(damaged(st.just(message), WORDS) | st.binary(max_size=300))
        with contextlib.suppress(RemoteProtocolError):
            assert decode(sent) == decode(bytes(sent))

    keep_on(attempt)


def proof_that_sealed_frames_open_once_and_unchanged() -> None:
    here, there = (bytes(32), bytes(12)), (bytes([1]) * 32, bytes([2]) * 12)
    peer = SpiffeId("local", "default", "orders")

    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        sender = Session(5, peer, send=here, receive=there, started=0.0)
        receiver = Session(5, peer, send=there, receive=here, started=0.0)
        for _ in range(data.draw(st.integers(1, 5))):
            text = data.draw(st.binary(max_size=100))
            frame = sender.seal(Kind.DATA, 1, text)
            sent = data.draw(damaged(st.just(frame), WORDS) | st.just(frame))
            for turn in range(2):
                try:
                    kind, number, counter, stream = read_header(sent)
                    got = receiver.open(sent, counter)
                except FrameError:
                    continue
                assert turn == 0, "opened a second time"
                assert (sent, kind, number, stream, got) == (frame, Kind.DATA, 5, 1, text)

    keep_on(attempt)

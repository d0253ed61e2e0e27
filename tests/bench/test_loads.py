"""What load generators print, and how the open loop counts: a wrong latency would be believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import curl
from benchmarks.contest import Load
from benchmarks.errors import BenchFailed
from benchmarks.generator import address_of, percentile, request_of
from benchmarks.jobs import Stream
from benchmarks.load import duration_us, load_of_json, parse_wrk
from benchmarks.open_loop import Connection, Schedule, Sender

WRK = """\
Running 5s test @ http://127.0.0.1:15001/100
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.86ms  301.13us   6.11ms   82.34%
    Req/Sec    17.32k   611.05    18.58k    70.00%
  Latency Distribution
     50%    1.95ms
     75%    2.11ms
     90%  987.00us
     99%    1.01s
  86411 requests in 5.02s, 21.01MB read
Requests/sec:  17213.35
Transfer/sec:      4.19MB
"""


def test_wrk_figures_are_read_with_their_units() -> None:
    load = parse_wrk(WRK)
    assert load == Load(requests=86411, seconds=5.02, p50_us=1950.0, p99_us=1.01e6, errors=0)


def test_every_kind_of_error_that_wrk_reports_counts() -> None:
    text = WRK.replace(
        "Requests/sec",
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
        "  Non-2xx or 3xx responses: 50000\nRequests/sec",
    )
    assert parse_wrk(text).errors == 54321


@pytest.mark.parametrize("missing", ["50%", "99%", "requests in"])
def test_wrk_output_without_a_figure_is_no_result(missing: str) -> None:
    text = "\n".join(line for line in WRK.splitlines() if missing not in line)
    with pytest.raises(BenchFailed, match="no result"):
        parse_wrk(text)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [("12.5", "us", 12.5), ("1.5", "ms", 1500.0), ("2", "s", 2e6), ("1", "m", 6e7), ("1", "h", 3.6e9)],
)
def test_durations(value: str, unit: str, expected: float) -> None:
    assert duration_us(value, unit) == expected


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.0, 1.0))
def test_a_percentile_is_a_value_with_at_most_its_share_below(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found in ordered
    assert sum(value < found for value in ordered) <= share * len(ordered)


def test_the_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0.0


def test_the_request_names_the_service_that_is_asked_for() -> None:
    assert request_of("http://127.0.0.1:81/100", []) == b"GET /100 HTTP/1.1\r\nHost: 127.0.0.1:81\r\n\r\n"
    assert request_of("http://127.0.0.1:81/100", ["Host: echo"]) == b"GET /100 HTTP/1.1\r\nHost: echo\r\n\r\n"
    assert address_of("nats://127.0.0.1:4222") == ("127.0.0.1", 4222)


def test_a_load_is_read_field_by_field() -> None:
    text = json.dumps({"requests": 3, "seconds": 1.0, "errors": 1, "late_p99_us": 2.0, "reason": "HTTP 503"})
    assert load_of_json(text) == Load(3, 1.0, errors=1, late_p99_us=2.0, reason="HTTP 503")


@given(st.integers(1, 100_000), st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_request_is_due_from_its_intended_time_on(per_second: int, total: int, number: int) -> None:
    schedule = Schedule(per_second, total)
    number = min(number, total - 1)
    # Both round down to whole nanoseconds, so one nanosecond is all that they may differ by.
    assert schedule.due(schedule.intended_ns(number) + 1) >= number + 1
    assert schedule.due(schedule.intended_ns(number) - 1) <= number
    assert schedule.due(10**18) == total


class FakeTransport:
    def __init__(self) -> None:
        self.written = 0

    def write(self, _data: bytes) -> None:
        self.written += 1


class FixedClock(Sender):
    """A sender whose time is set by hand."""

    time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def connected(sender: Sender) -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(b"GET", sender), FakeTransport()
    connection.connection_made(transport)  # type: ignore[arg-type]  # as much of one as is used
    return connection, transport


def test_a_stall_counts_for_every_request_that_it_delayed() -> None:
    sender = FixedClock(Schedule(per_second=1000, total=4))
    connection, transport = connected(sender)
    assert sender.send_due() == 1_000_000
    sender.time_ns = 3_500_000  # nothing came back meanwhile: three more became due
    assert sender.send_due() is None
    assert transport.written == 1
    for _ in range(4):
        connection.data_received(ANSWER)
    assert sender.tally.latencies_ns == [3_500_000, 2_500_000, 1_500_000, 500_000]
    assert sender.tally.lateness_ns == [0]  # the others waited for the connection, not for the generator
    assert sender.done.is_set()
    assert sender.unanswered == 0


def test_the_generator_owns_up_to_being_late() -> None:
    sender = FixedClock(Schedule(per_second=1000, total=1))
    connected(sender)
    sender.time_ns = 700
    sender.send_due()
    assert sender.tally.lateness_ns == [700]


def test_refusals_and_lost_connections_are_errors() -> None:
    sender = FixedClock(Schedule(per_second=1000, total=3))
    connection, _ = connected(sender)
    sender.send_due()
    connection.data_received(ANSWER.replace(b"200 OK", b"503 No"))
    sender.time_ns = 1_000_000
    sender.send_due()
    connection.connection_lost(None)
    sender.time_ns = 2_000_000
    sender.send_due()
    assert (sender.tally.errors, sender.tally.reason) == (2, "HTTP 503")
    assert sender.unanswered == 1


def transfer_line(status: int = 200, sent: int = 0, received: int = 0, error: str | None = None) -> str:
    fields = {"http_code": status, "size_upload": sent, "size_download": received, "time_total": 0.5}
    return json.dumps(fields | {"errormsg": error})


UP, DOWN = Stream(upload=True, body_bytes=2**28), Stream(upload=False, body_bytes=2**27)


def test_downloads_add_up() -> None:
    text = "\n".join([transfer_line(received=2**27), "curl: (0) noise", transfer_line(received=2**27)])
    load = curl.load_of(DOWN, curl.parse(text), "", cpu_s=0.25)
    assert (load.requests, load.body_bytes, load.seconds) == (2, 2**28, 1.0)
    assert (load.errors, load.reason, load.cpu_s) == (0, "", 0.25)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (transfer_line(413, error="The requested URL returned error: 413"), "HTTP 413"),
        (transfer_line(200, received=7, error="transfer closed"), "transfer closed"),
        (transfer_line(200, received=7), "HTTP 200 with 7 bytes received, 0 sent"),
        (transfer_line(0, error="Couldn't connect"), "Couldn't connect"),
    ],
)
def test_a_transfer_that_is_not_whole_is_an_error_and_ends_the_job(line: str, reason: str) -> None:
    load = curl.load_of(DOWN, curl.parse(line), "", 0.0)
    assert (load.requests, load.errors, load.body_bytes, load.reason) == (0, 2, 0, reason)


def test_a_curl_that_says_nothing_proves_nothing() -> None:
    assert curl.load_of(DOWN, [], "", 0.0).reason == "curl ended early"


@pytest.mark.parametrize("answer", ["", "268435455\n", '{"error": "x"}\n'])
def test_an_upload_counts_if_the_application_got_every_byte(answer: str) -> None:
    sent = curl.parse(transfer_line(sent=2**28))
    assert curl.load_of(UP, sent, f"{2**28}\n", 0.0).errors == 0
    assert curl.load_of(UP, sent, answer, 0.0).errors == 1


def test_the_command_line_of_curl(tmp_path: Path) -> None:
    up = curl.command("curl", "http://127.0.0.1:1/upload", {"Host": "echo"}, UP, tmp_path / "body")
    assert up[-1] == "http://127.0.0.1:1/upload?[1-1]"
    assert up[up.index("--upload-file") + 1] == str(tmp_path / "body")
    assert "Host: echo" in up
    down = curl.command("curl", "http://127.0.0.1:1/134217728", {}, DOWN, tmp_path / "body")
    assert down[-1].endswith("?[1-2]")
    assert "--upload-file" not in down

from __future__ import annotations

import base64
import copy
import json
import threading
from random import Random

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.version import __version__ as sdk_version

from busmesh import __version__
from busmesh.errors import UsageError
from busmesh.telemetry import otlp
from busmesh.telemetry.sampling import Sampling
from busmesh.telemetry.trace import Trace, Tracer
from busmesh.telemetry.tracecontext import parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00".encode()
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
START = 1_750_000_000_000_000_000
VARIABLES = (
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def tracer(ratio: float = 0.0, **options: object) -> Tracer:
    return Tracer({"service.name": "web", "service.instance.id": "web-0"}, Random(7), ratio=ratio, **options)


def traced(header: bytes | None, by: Tracer) -> Trace:
    found = by.begin(header)
    assert isinstance(found, Trace)
    return found


def spans(by: Tracer) -> list[dict]:
    told = by.drain()
    if told is None:
        return []
    [resource] = told["resourceSpans"]
    [scope] = resource["scopeSpans"]
    return scope["spans"]


def one_try(trace: Trace, kind: str = "client", status: int = 200, flags: str = "", **more: object) -> dict:
    options = {"method": b"GET", "route": "/orders/*", "service": "orders", **more}
    trace.start(kind, START, **options).end(START + 1_500_000, status, flags)
    return options


def attributes(span: dict) -> dict[str, object]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


# -- what is passed on ---------------------------------------------------------------------------------


def test_an_unsampled_header_is_passed_on_as_it_came():
    by = tracer(ratio=1.0)
    for header in (UNSAMPLED, f"cc-{TRACE}-{SPAN}-00-later".encode(), f"00-{TRACE}-{SPAN}-02".encode()):
        assert by.begin(header) is header
    assert by.statistics()["started"] == 0


@pytest.mark.parametrize("header", [None, b"", b"junk", UNSAMPLED[:-1], UNSAMPLED.upper(), UNSAMPLED + b"-x"])
def test_where_none_came_or_a_malformed_one_a_new_one_is_made(header: bytes | None):
    by = tracer()
    made = {by.begin(header) for _ in range(1000)}
    assert len(made) == 1000
    for each in made:
        found = parse(each)
        assert found is not None
        assert not found.sampled
        assert len(each) == 55
        assert found.trace_id != int(TRACE, 16)
        assert f"{found.span_id:016x}" not in f"{found.trace_id:032x}"


def test_the_same_seed_makes_the_same_headers():
    assert [tracer().begin(None) for _ in range(3)] == [tracer().begin(None)] * 3


def test_the_bits_of_new_ids_are_evenly_spread():
    by, bits = tracer(), [0] * 192
    for _ in range(2000):
        found = parse(by.begin(None))
        number = found.trace_id << 64 | found.span_id
        for at in range(192):
            bits[at] += number >> at & 1
    assert min(bits) > 850
    assert max(bits) < 1150


# -- who is sampled --------------------------------------------------------------------------------------


def test_the_ratio_is_of_requests_that_bring_no_trace():
    by = tracer(ratio=0.01, max_per_second=10**9)
    assert 150 < sum(isinstance(by.begin(None), Trace) for _ in range(20_000)) < 250
    assert not any(isinstance(by.begin(UNSAMPLED), Trace) for _ in range(1000))


def test_a_caller_that_samples_is_followed():
    trace = traced(SAMPLED, tracer(ratio=0.0))
    assert trace.trace_id == TRACE
    assert trace.joined


@pytest.mark.parametrize(
    ("sampler", "argument", "none", "unsampled", "sampled"),
    [
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("parentbased_always_on", "", True, False, True),
        ("parentbased_always_off", "", False, False, True),
        ("traceidratio", "1", True, True, True),
        ("traceidratio", "0", False, False, False),
        ("parentbased_traceidratio", "1", True, False, True),
    ],
)
def test_samplers_of_the_environment(
    sampler: str, argument: str, none: bool, unsampled: bool, sampled: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    by = tracer()
    assert [isinstance(by.begin(header), Trace) for header in (None, UNSAMPLED, SAMPLED)] == [
        none,
        unsampled,
        sampled,
    ]


def test_a_ratio_of_all_traces_decides_by_the_lower_half_of_the_id_as_the_sdk_does():
    by = tracer()
    by.use(Sampling(0.5, follow=False))
    for lower, chosen in (
        ("0" * 15 + "1", True),
        ("7" + "f" * 15, True),
        ("8" + "0" * 15, False),
        ("f" * 16, False),
    ):
        header = f"00-{'f' * 16}{lower}-{SPAN}-01".encode()
        assert isinstance(by.begin(header), Trace) is chosen


def test_a_disabled_sdk_records_nothing_whoever_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    by = tracer(ratio=1.0)
    by.use(Sampling(1.0))
    assert by.begin(SAMPLED) is SAMPLED
    assert not parse(by.begin(None)).sampled
    assert by.drain() is None


def test_a_caller_that_samples_everything_costs_no_more_than_the_bound():
    by = tracer(max_per_second=20)
    for second in range(3):
        found = 0
        for _ in range(1000):
            trace = by.begin(SAMPLED)
            if isinstance(trace, Trace):
                one_try(trace)
                found += 1
            else:
                assert trace is SAMPLED
        assert found == 20
        assert by.refused == 980 * (second + 1)
        assert len(spans(by)) == 20


def test_past_the_bound_a_new_trace_is_not_flagged():
    by = tracer(ratio=1.0, max_per_second=0)
    assert not parse(by.begin(None)).sampled


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(ratio: float):
    with pytest.raises(UsageError, match="BM6005"):
        tracer(ratio=ratio)


# -- what is recorded ------------------------------------------------------------------------------------


def test_the_span_of_a_try_to_the_letter():
    by = tracer()
    span = traced(SAMPLED, by).start(
        "client",
        START,
        method=b"POST",
        route="/orders/*",
        service="orders",
        target=b"/orders/17?token=x",
        resend=1,
        extra={"busmesh.destination.instance": "orders-v1-0"},
    )
    span.end(START + 1_500_000, 503, "UO")
    version, trace_id, span_id, flags = span.traceparent.decode().split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert span_id != SPAN
    [resource] = by.drain()["resourceSpans"]
    assert attributes(resource["resource"]) == {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
        "service.name": "web",
        "service.instance.id": "web-0",
    }
    [scope] = resource["scopeSpans"]
    assert scope["scope"] == {"name": "busmesh", "version": __version__}
    assert scope["spans"] == [
        {
            "traceId": TRACE,
            "spanId": span_id,
            "parentSpanId": SPAN,
            "flags": 0x301,
            "name": "POST /orders/*",
            "kind": 3,
            "startTimeUnixNano": "1750000000000000000",
            "endTimeUnixNano": "1750000000001500000",
            "attributes": [
                {"key": "http.request.method", "value": {"stringValue": "POST"}},
                {"key": "server.address", "value": {"stringValue": "orders"}},
                {"key": "busmesh.destination.instance", "value": {"stringValue": "orders-v1-0"}},
                {"key": "busmesh.route", "value": {"stringValue": "/orders/*"}},
                {"key": "http.request.resend_count", "value": {"intValue": "1"}},
                {"key": "http.response.status_code", "value": {"intValue": "503"}},
                {"key": "busmesh.response_flags", "value": {"stringValue": "UO"}},
                {"key": "error.type", "value": {"stringValue": "UO"}},
            ],
            "status": {"code": 2},
        }
    ]
    assert by.drain() is None


def test_the_span_of_a_request_that_came_in():
    by = tracer()
    one_try(traced(SAMPLED, by), "server", 404)
    [span] = spans(by)
    assert (span["name"], span["kind"], span["parentSpanId"], span["status"]) == (
        "GET /orders/*",
        2,
        SPAN,
        {"code": 0},
    )
    assert attributes(span) == {
        "http.request.method": "GET",
        "server.address": "orders",
        "http.route": "/orders/*",
        "url.scheme": "http",
        "http.response.status_code": "404",
    }


@pytest.mark.parametrize(
    ("kind", "status", "flags", "code", "error"),
    [
        ("client", 200, "", 0, None),
        ("client", 399, "", 0, None),
        ("client", 404, "", 2, "404"),
        ("client", 429, "RL", 2, "RL"),
        ("client", 0, "", 2, "_OTHER"),
        ("client", 0, "UT", 2, "UT"),
        ("server", 404, "", 0, None),
        ("server", 403, "RBAC", 0, None),
        ("server", 500, "", 2, "500"),
    ],
)
def test_which_outcome_is_an_error(kind: str, status: int, flags: str, code: int, error: str | None):
    by = tracer()
    one_try(traced(SAMPLED, by), kind, status, flags)
    [span] = spans(by)
    assert span["status"] == {"code": code}
    told = attributes(span)
    assert told.get("error.type") == error
    assert told.get("http.response.status_code") == (str(status) if status else None)
    assert told.get("busmesh.response_flags") == (flags or None)


def test_all_tries_of_a_request_are_in_one_trace_also_when_it_begins_here():
    by = tracer(ratio=1.0)
    trace = traced(None, by)
    assert not trace.joined
    one_try(trace, status=503)
    one_try(trace, resend=1)
    first, second = spans(by)
    assert first["traceId"] == second["traceId"] == trace.trace_id
    assert first["spanId"] != second["spanId"]
    assert "parentSpanId" not in first
    assert "parentSpanId" not in second
    assert first["flags"] == second["flags"] == 0x101
    assert "http.request.resend_count" not in attributes(first)
    assert attributes(second)["http.request.resend_count"] == "1"


def test_hops_hang_together():
    web = tracer(ratio=1.0)
    orders = Tracer({"service.name": "orders"}, Random(8), ratio=0.0)
    out = traced(None, web).start("client", START, method=b"GET", route="", service="orders")
    into = traced(out.traceparent, orders).start("server", START, method=b"GET", route="", service="orders")
    into.end(START + 1, 200)
    out.end(START + 2, 200)
    [caller], [called] = spans(web), spans(orders)
    assert called["parentSpanId"] == caller["spanId"]
    assert called["traceId"] == caller["traceId"]


def test_a_path_is_told_only_if_asked_for_and_never_in_the_name_nor_with_its_query():
    quiet, open_ = tracer(), tracer(paths=True)
    for by in (quiet, open_):
        one_try(traced(SAMPLED, by), target=b"/orders/17\x1b?token=hunter2", route="")
    [without], [with_path] = spans(quiet), spans(open_)
    assert "orders/17" not in json.dumps(without)
    assert attributes(with_path)["url.path"] == "/orders/17\x1b"
    assert with_path["name"] == without["name"] == "GET"
    assert "hunter2" not in json.dumps(with_path)


def test_a_method_that_the_caller_made_up_is_not_in_the_name():
    by = tracer()
    one_try(traced(SAMPLED, by), method=b"EVIL" * 100)
    [span] = spans(by)
    assert span["name"] == "HTTP /orders/*"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "EVIL" * 8


def test_the_resource_of_the_environment_adds_and_does_not_replace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab,service.name=other")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    by = tracer(ratio=1.0)
    one_try(traced(None, by))
    [resource] = by.drain()["resourceSpans"]
    told = attributes(resource["resource"])
    assert told["deployment.environment.name"] == "lab"
    assert told["service.name"] == "web"


def test_ended_spans_that_nobody_drains_are_dropped():
    by = tracer(capacity=5, max_per_second=100)
    for _ in range(12):
        one_try(traced(SAMPLED, by))
    assert by.statistics() == {"started": 12, "waiting": 5, "capacity": 5, "dropped": 7, "refused": 0}
    assert "'dropped': 7" in repr(by)
    assert len(spans(by)) == 5


def test_the_message_of_a_full_second_fits_the_bus():
    by = tracer(paths=True, max_per_second=1000)
    wide = {"route": "r" * 500, "service": "s" * 500, "target": b"/" + b"p" * 2000, "method": b"M" * 100}
    for _ in range(300):
        one_try(traced(SAMPLED, by), status=503, flags="UH", resend=3, **wide)
    assert len(json.dumps(by.drain(), separators=(",", ":"))) < 1_000_000


def test_no_thread_is_started_and_no_global_provider_set():
    threads, provider = threading.active_count(), otel.get_tracer_provider()
    by = tracer(ratio=1.0)
    one_try(traced(None, by))
    assert by.drain() is not None
    assert threading.active_count() == threads
    assert otel.get_tracer_provider() is provider


def test_nothing_is_left_to_do_at_exit(monkeypatch: pytest.MonkeyPatch):
    registered: list[object] = []
    monkeypatch.setattr("atexit.register", registered.append)
    tracer(ratio=1.0)
    assert registered == []


def test_attributes_of_each_type():
    values = {"s": "x", "b": True, "i": 2**62, "f": 0.5, "l": ("a", 1), "n": None}
    assert otlp.attributes(values) == [
        {"key": "s", "value": {"stringValue": "x"}},
        {"key": "b", "value": {"boolValue": True}},
        {"key": "i", "value": {"intValue": "4611686018427387904"}},
        {"key": "f", "value": {"doubleValue": 0.5}},
        {"key": "l", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": "1"}]}}},
        {"key": "n", "value": {"stringValue": "None"}},
    ]


def test_the_official_stubs_decode_what_is_drained():
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    from google.protobuf import json_format

    by = tracer()
    one_try(traced(SAMPLED, by), status=503)
    told = copy.deepcopy(by.drain())
    for resource in told["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                # OTLP/JSON departs from protobuf's JSON in one point: ids are hex, not base64.
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    message = json_format.ParseDict(told, trace_service.ExportTraceServiceRequest())
    [span] = message.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == SPAN
    assert (span.end_time_unix_nano - span.start_time_unix_nano, span.status.code) == (1_500_000, 2)


def test_repr_of_a_trace_and_a_span():
    trace = traced(SAMPLED, tracer())
    span = trace.start("client", START, method=b"GET", route="", service="orders")
    assert repr(trace) == f"<Trace {TRACE} joined=True>"
    assert repr(span) == f"<Span {span.traceparent.decode()}>"

"""``busmesh telemetry``: lines for people, JSON for programs, and nothing that a message can break."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.cli.main import main
from busmesh.cli.oneline import lines_of
from busmesh.cli.output import Output
from busmesh.cli.telemetry import shown
from busmesh.identity.ca import CertificateAuthority
from busmesh.names import ServiceName, Subjects
from busmesh.telemetry.access import AccessLog
from busmesh.telemetry.events import EventLog
from busmesh.telemetry.metrics import Registry
from busmesh.telemetry.trace import Trace, Tracer
from busmesh.yamlfile import read_yaml
from tests.operator.fakes import MESH, fake_mesh
from tests.support.bus import NatsServer

NOW = 1_800_000_000.25
SUBJECTS = Subjects(MESH)


def subject(signal: str) -> str:
    return SUBJECTS.telemetry(signal, ServiceName("web"), "web-0")


def metrics() -> Mapping[str, Any]:
    registry = Registry({"service": "web"})
    requests = registry.requests("source", "web", "spiffe://local/web", "orders", "v1", "/orders/*")
    for _ in range(99):
        requests.record(200, "", 0.010)
    requests.record(503, "UH", 0.010)
    return registry.tick(NOW)


def access() -> Mapping[str, Any]:
    log = AccessLog(1.0, random.Random(1), 10, paths=True)
    log.event(
        now=NOW,
        reporter="source",
        source_service="web",
        source_principal="spiffe://local/web",
        destination_service="orders",
        destination_instance="orders-v1-0",
        destination_version="v1",
        route="all",
        method=b"GET",
        target=b"/orders/7\x1b[2J\r\nforged",
        status=503,
        flags="UF",
        seconds=0.0123,
        bytes_in=0,
        bytes_out=2,
        attempts=2,
        trace_id="ab" * 16,
    )
    return {"service": "web", "events": log.drain()}


def events() -> Mapping[str, Any]:
    log = EventLog("web", "web-0", capacity=10)
    log.add(NOW, "member.lost", "orders-v1-0 does not answer", detail={"tries": 3})
    return {"service": "web", "events": log.drain()}


def traces() -> Mapping[str, Any]:
    tracer = Tracer({"service.name": "web"}, random.Random(1), ratio=1.0)
    trace = tracer.begin(None)
    assert isinstance(trace, Trace)
    span = trace.start("client", int(NOW * 1e9), method=b"GET", route="all", service="orders")
    span.end(int((NOW + 0.05) * 1e9), 200)
    drained = tracer.drain()
    assert drained is not None
    return drained


@pytest.mark.parametrize(
    ("signal", "message", "words"),
    [
        (
            "metrics",
            metrics(),
            ["web-0", "out web -> orders v1", "[/orders/*]", "100.0 rps", "99.00%", "p99"],
        ),
        (
            "access",
            access(),
            ["web-0", "web -> orders-v1-0", "GET /orders/7", "503", "12ms", "UF", "2 tries"],
        ),
        ("events", events(), ["web-0", "member.lost", "orders-v1-0 does not answer"]),
        ("traces", traces(), ["web-0", "client", "GET all", "200", "50ms", "trace "]),
    ],
)
def test_a_line_for_people(signal: str, message: Mapping[str, Any], words: list[str]) -> None:
    [line] = lines_of(subject(signal), message)
    assert line.isprintable()
    assert line.split("  ")[0].endswith(".250")
    at = [line.find(word) for word in words]
    assert -1 not in at, line
    assert at == sorted(at), line


def test_a_request_that_reached_no_instance_names_the_service() -> None:
    message = {
        "events": [{"source_service": "web", "destination_service": "orders", "destination_instance": ""}]
    }
    [line] = lines_of(subject("access"), message)
    assert "web -> orders" in line


def test_wide_says_more() -> None:
    assert lines_of(subject("metrics"), Registry().tick(NOW)) == []
    [idle] = lines_of(subject("metrics"), Registry().tick(NOW), wide=True)
    assert "web-0" in idle
    assert idle.endswith("no requests")
    assert "trace " + "ab" * 16 in lines_of(subject("access"), access(), wide=True)[0]
    assert "tries=3" in lines_of(subject("events"), events(), wide=True)[0]


def test_a_message_of_thousands_of_events_is_cut() -> None:
    lines = lines_of(subject("events"), {"events": [{"kind": "x"}] * 5000})
    assert len(lines) < 100
    assert "-o json" in lines[-1]


KEYS = (
    "events",
    "requests",
    "time",
    "resourceSpans",
    "scopeSpans",
    "spans",
    "attributes",
    "key",
    "value",
    "rps",
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    signal=st.sampled_from(["metrics", "access", "events", "traces", "other"]),
    message=st.dictionaries(st.sampled_from(KEYS), ANYTHING),
    wide=st.booleans(),
)
def test_no_message_breaks_a_line(signal: str, message: dict[str, Any], wide: bool) -> None:
    for line in lines_of(subject(signal), message, wide=wide):
        assert line.isprintable()


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority.create(MESH, time.time())


async def listen(
    nats_server: NatsServer, ca: CertificateAuthority, home: Path, *words: str, every: list[bytes]
) -> int:
    """Type ``busmesh telemetry WORDS`` while ``every`` payload is published again and again."""
    async with fake_mesh(nats_server, ca) as mesh:
        mesh.fill_home(home)

        async def tell() -> None:
            while True:
                for payload in every:
                    mesh.bus.publish(subject("access"), payload)
                await asyncio.sleep(0.02)

        telling = asyncio.create_task(tell())
        try:
            return await asyncio.to_thread(main, ["telemetry", *words])
        finally:
            telling.cancel()


def test_json_lines(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [json.dumps(access(), indent=2).encode(), b"no json", b"[1]"]
    status = asyncio.run(
        listen(nats_server, ca, busmesh_home, "access", "--count", "3", "--timeout", "20s", every=every)
    )
    said = capsys.readouterr()
    assert status == 0
    assert [json.loads(line) for line in said.out.splitlines()] == [access()] * 3
    assert "were no JSON objects" in said.err


def test_yaml_and_table(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [json.dumps(events()).encode()]

    def type_it(output: str) -> str:
        words = ("--count", "2", "--timeout", "20s", "-o", output)
        assert asyncio.run(listen(nats_server, ca, busmesh_home, *words, every=every)) == 0
        return capsys.readouterr().out

    documents = read_yaml(type_it("yaml").encode(), "out")
    assert [document.data for document in documents] == [events()] * 2
    # The subject says access, whose events have no kind: they are shown as such.
    assert len(type_it("table").splitlines()) == 2


def test_the_end_without_what_was_awaited(
    nats_server: NatsServer, ca: CertificateAuthority, busmesh_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("traces", "--count", "1", "--timeout", "200ms")
    assert asyncio.run(listen(nats_server, ca, busmesh_home, *words, every=[b"{}"])) == 1
    assert "0 of 1 messages" in capsys.readouterr().err
    assert asyncio.run(listen(nats_server, ca, busmesh_home, *words[:1], *words[3:], every=[])) == 0
    assert main(["telemetry", "no such thing"]) == 2


@pytest.mark.parametrize("output", ["yaml", "json", "table"])
def test_what_is_too_deep_to_be_written_is_no_message(output: str) -> None:
    deep = b'{"a": ' * 900 + b"1" + b"}" * 900
    text = shown("busmesh.local.telemetry.events.default.orders.orders-0", deep, Output(output))
    assert text is None or text.isprintable()

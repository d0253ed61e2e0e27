"""What the contestants are made of, as far as it can be told without starting them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import envoy, mesh, proc, profile
from benchmarks.bus_peer import MessageReader, publication
from benchmarks.errors import BenchFailed
from benchmarks.floor import Floor, Work, work_of
from benchmarks.jobs import Get, Idle, Rate, Start, Stream
from benchmarks.pyserver import size_of
from benchmarks.upstream import nginx_config


def test_counters_that_are_absent_or_zero_prove_nothing() -> None:
    stats = "a.b: 3\nc: 0\nhistogram: No recorded values\n"
    assert envoy.missing_proofs(stats, {"a.b": "one", "c": "two", "d": "three"}) == ["two", "three"]


def test_the_bus_is_found_below_its_own_parent_only() -> None:
    table = {
        5: proc.Stat(1, "python", 0.0),
        6: proc.Stat(5, "sh", 0.0),
        7: proc.Stat(1, "nats-server", 0.0),
        8: proc.Stat(6, "nats-server", 0.0),
    }
    assert mesh.bus_process(5, table) == 8
    with pytest.raises(BenchFailed, match="nats-server"):
        mesh.bus_process(6, {7: table[7]})


def test_ports_come_from_the_ready_line() -> None:
    ready = {"event": "ready", "outbound": "127.0.0.1:15001", "admin": "127.0.0.1:15000"}
    assert mesh.ready_port(ready, "outbound") == 15001
    assert mesh.ready_port(ready, "admin") == 15000
    for line in (
        {"event": "ready"},
        {"event": "x", "outbound": "a:1"},
        {"event": "ready", "outbound": "a:b"},
    ):
        with pytest.raises(BenchFailed, match="outbound"):
            mesh.ready_port(line, "outbound")


def test_requests_are_counted_over_all_labels() -> None:
    text = (
        "# TYPE busmesh_requests_total counter\n"
        'busmesh_requests_total{reporter="source",response_code="200"} 3\n'
        'busmesh_requests_total{reporter="source",response_code="503"} 4.0\n'
        'busmesh_requests_total_other{a="b"} 100\n'
    )
    assert mesh.counted_requests(text) == 7
    assert mesh.counted_requests("") == 0


def test_each_agent_that_is_started_is_another_instance() -> None:
    bus = "nats://127.0.0.1:4222"
    first, another = mesh.service_agent(bus, 80), mesh.service_agent(bus, 80, "another0")
    assert (first["instance"], another["instance"]) == ("echo-0", "another0-0")
    assert first["app"] == another["app"] == "http://127.0.0.1:80"


def test_large_bodies_come_from_files_and_uploads_go_on_to_the_sink(tmp_path: Path) -> None:
    config = nginx_config(tmp_path, 8080, 8081, [100, 16384], as_root=False)
    assert f'location = /100 {{ return 200 "{"x" * 100}"; }}' in config
    assert f"location = /16384 {{ root {tmp_path}; }}" in config
    assert "server 127.0.0.1:8081;" in config
    assert "user root" not in config


@pytest.mark.parametrize(
    ("path", "size"),
    [
        (b"/100", 100),
        (b"/1073741824?1", 2**30),
        (b"/", None),
        (b"/healthz", None),
        (b"/999999999999", None),
    ],
)
def test_the_small_server_reads_a_size_off_the_path(path: bytes, size: int | None) -> None:
    assert size_of(path) == size


def test_the_bus_alone_moves_bodies_in_messages() -> None:
    assert work_of(Get(8, 1000)) == Work(8, 200, 1000)
    assert work_of(Stream(upload=True, body_bytes=2**30)) == Work(16, 65536, 200, 16384)
    assert work_of(Stream(upload=False, body_bytes=2**20)) == Work(16, 200, 65536, 4096)


def test_a_floor_does_what_messages_can_do() -> None:
    bus = Floor("bus alone", "nats://x", {}, "peer", streams=True)
    assert [job for job in (Get(1), Rate(1), Start(), Idle(), Get(1, 2**20)) if bus.can(job)] == [Get(1)]
    large = Stream(upload=True, body_bytes=2**20)
    assert bus.can(large)
    assert not Floor("bare nats-py", "nats://x", {}, "peer", streams=False).can(large)


def test_messages_are_cut_wherever_the_socket_cuts_them() -> None:
    text = b"INFO {}\r\nMSG a.1 1 inbox.2 3\r\nM\r\n\r\nPING\r\nMSG b 1 0\r\n\r\n"
    for size in range(1, len(text) + 1):
        messages: list[tuple[bytes, bytes]] = []
        lines: list[bytes] = []
        reader = MessageReader(lambda *message, seen=messages: seen.append(message), lines.append)
        for at in range(0, len(text), size):
            reader.feed(text[at : at + size])
        assert messages == [(b"a.1", b"inbox.2"), (b"b", b"")]
        assert lines == [b"INFO {}", b"PING"]


def test_a_publication_with_and_without_reply() -> None:
    assert publication(b"a", b"r", b"xyz") == b"PUB a r 3\r\nxyz\r\n"
    assert publication(b"a", b"", b"") == b"PUB a 0\r\n\r\n"


def test_self_time_belongs_to_the_innermost_frame() -> None:
    folded = (
        "run (a/loop.py:1);seal (/somewhere/site-packages/p/q/frame.py:9) 30\n"
        "run (a/loop.py:1);seal (/somewhere/site-packages/p/q/frame.py:12) 45\n"
        "run (a/loop.py:1) 25\n"
        "\n"
    )
    assert profile.self_times(folded) == [("seal (p/q/frame.py)", 0.75), ("run (a/loop.py)", 0.25)]


def test_the_profile_table_says_what_it_leaves_out() -> None:
    folded = "".join(f"f{n} (m.py:1) {100 - n}\n" for n in range(4))
    rows = profile.self_time_table("role", folded, top=2).rows
    assert [row[0] for row in rows] == ["f0 (m.py)", "f1 (m.py)", "2 others"]


def test_an_empty_profile_is_an_empty_table() -> None:
    assert profile.self_time_table("role", "").rows == [["0 others", "0.0%"]]

"""The floors below any mesh over NATS: request and reply without HTTP, seal or policy, one NATS server.

One with plain nats-py, as an application would use it; one with the bare protocol on sockets, so that next
to nothing but the bus is left: its own cost, also for large bodies in messages of 64 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks import children
from benchmarks.contest import BUS, CALLER, SERVICE, Load
from benchmarks.errors import BenchFailed
from benchmarks.jobs import Get, Job, Stream
from benchmarks.load import load_of_json
from benchmarks.stand import Stand, free_port, get, module_command, need_program

#: About what a small request needs, sealed.
_REQUEST_BYTES = 200
_CHUNK_BYTES = 2**16
#: 1 MiB under way, as much as a fast stream needs.
_CHUNKS_IN_FLIGHT = 16
#: Replies of one message: below the server's default ``max_payload``.
_LARGEST_REPLY = 900_000


@dataclass(frozen=True, slots=True)
class Work:
    """What the requester is to do: so many seconds, or so many requests."""

    in_flight: int
    request_bytes: int
    reply_bytes: int
    requests: int = 0

    def arguments(self, seconds: float) -> list[str]:
        numbers = (self.in_flight, self.request_bytes, self.reply_bytes, self.requests, seconds)
        return [str(number) for number in numbers]


def work_of(job: Get | Stream) -> Work:
    """Return a job in terms of messages."""
    if isinstance(job, Get):
        return Work(job.connections, _REQUEST_BYTES, job.body_bytes)
    chunks = max(1, job.body_bytes * job.transfers // _CHUNK_BYTES)
    if job.upload:
        return Work(_CHUNKS_IN_FLIGHT, _CHUNK_BYTES, _REQUEST_BYTES, chunks)
    return Work(_CHUNKS_IN_FLIGHT, _REQUEST_BYTES, _CHUNK_BYTES, chunks)


@dataclass(frozen=True, slots=True)
class Floor:
    """A NATS server and a responder; each drive brings its own requester."""

    name: str
    url: str
    roles: Mapping[int, str]
    #: The module of both ends.
    peer: str
    streams: bool
    load_role: str = field(default=CALLER, init=False)
    is_reference: bool = field(default=True, init=False)

    def can(self, job: Job) -> bool:
        if isinstance(job, Stream):
            return self.streams and job.body_bytes >= _CHUNK_BYTES
        return isinstance(job, Get) and job.body_bytes <= _LARGEST_REPLY

    def drive(self, job: Job, seconds: float) -> Load:
        assert isinstance(job, Get | Stream)
        work = work_of(job)
        argv = module_command(self.peer, "request", self.url, *work.arguments(seconds))
        text, _ = children.output(argv, seconds if isinstance(job, Get) else 60)
        seen = load_of_json(text)
        if isinstance(job, Get):
            return seen
        moved = seen.requests * _CHUNK_BYTES
        if moved < job.body_bytes * job.transfers and not seen.errors:
            raise BenchFailed(f"{self.name} moved {moved} bytes only")
        # In transfers, as the others count.
        return Load(job.transfers, seen.seconds, errors=seen.errors, cpu_s=seen.cpu_s, body_bytes=moved)


def start_nats_py(stand: Stand) -> Floor:
    """Start a server and a responder on nats-py."""
    return _start(stand, "bare nats-py", "benchmarks.floor_peer", streams=False)


def start_bus(stand: Stand) -> Floor:
    """Start a server and a responder on bare sockets."""
    return _start(stand, "bus alone", "benchmarks.bus_peer", streams=True)


def _start(stand: Stand, name: str, peer: str, *, streams: bool) -> Floor:
    port, monitor = free_port(), free_port()
    program = need_program("nats-server", hint="pip install '.[demo]'")
    argv = [program, "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor)]
    server = stand.start(f"{name} server", argv)
    server.wait_until(lambda: get(monitor, "/healthz")[0] == 200)
    url = f"nats://127.0.0.1:{port}"
    responder = stand.start_module(f"{name} responder", peer, "respond", url)
    responder.read_event()
    return Floor(name, url, {server.pid: BUS, responder.pid: SERVICE}, peer, streams)

"""Samples as a run would make them, for the tests of what is computed from them."""

from __future__ import annotations

from benchmarks.contest import BUS, CALLER, LOAD, SERVICE, Cost, Load, Sample
from benchmarks.jobs import Get, Idle, Job, Start, Stream

FEW, ONE = Get(32), Get(1)
DOWN, UP = Stream(upload=False, body_bytes=2**30), Stream(upload=True, body_bytes=2**30)


def costs(cpu_s: float, *, bus_s: float, before_mib: float = 50.0, peak_mib: float = 50.0) -> dict[str, Cost]:
    proxy = Cost(cpu_s, before_mib, peak_mib)
    return {CALLER: proxy, BUS: Cost(bus_s, 20.0, 20.0), SERVICE: proxy, LOAD: Cost(0.1)}


def sample(
    contestant: str,
    turn: int,
    rps: float,
    *,
    job: Job = FEW,
    p50_us: float = 100.0,
    cpu_us: float = 30.0,
    peak_mib: float = 50.0,
    errors: int = 0,
) -> Sample:
    """Return five seconds of small requests."""
    requests = int(rps * 5)
    load = Load(requests, 5.0, p50_us, 4 * p50_us, errors)
    charged = costs(cpu_us * requests / 1e6, bus_s=11.0 * requests / 1e6, peak_mib=peak_mib)
    return Sample(contestant, job, turn, load, charged, 0.02)


def streamed(
    contestant: str,
    turn: int,
    mb_per_s: float,
    *,
    job: Stream = DOWN,
    grew_mib: float = 5.0,
    cpu_s: float = 2.0,
) -> Sample:
    """Return one transfer of 1 GiB."""
    load = Load(1, 2**30 / 1e6 / mb_per_s, body_bytes=2**30)
    charged = costs(cpu_s, bus_s=1.0, before_mib=60.0, peak_mib=60.0 + grew_mib)
    return Sample(contestant, job, turn, load, charged)


def failed(contestant: str, turn: int, reason: str, *, job: Job = DOWN) -> Sample:
    return Sample(contestant, job, turn, Load(0, 1.0, errors=1, reason=reason))


def started(contestant: str, turn: int, seconds: float) -> Sample:
    return Sample(contestant, Start(), turn, Load(1, seconds), costs(0.0, bus_s=0.0))


def idle(contestant: str, mib: float) -> Sample:
    return Sample(contestant, Idle(), 1, Load(0, 2.0), costs(0.0, bus_s=0.0, peak_mib=mib))

"""``RESULTS.md``: the tables, and what a reader must know to believe or repeat them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from benchmarks import envoy, mesh, report
from benchmarks.contest import Sample
from benchmarks.tables import Table

_METHOD = """\
Every contestant runs all the time; only one is driven at a time, in turn: {rounds} rounds of {seconds} s for
each job, each after {warm_up} s of warm-up. The load is closed-loop. Everything shares the machine: load
generator, proxies, bus and application. So requests/s depends on how many cores there are, and **CPU per
request** (user + system time of a process tree from `/proc`, divided by the requests of the round) is the
figure that carries over; "mesh CPU" is both proxies and, for busmesh, the bus. At one connection it is mostly
the price of waking an idle core, once per hop, and depends on whether something else keeps that core awake.
"Others' cores" is what processes outside the benchmark (and the hypervisor) took meanwhile. Ratios are taken
within a round, and their median is quoted. A sample is invalid if one response was no success, or if a proxy
or the bus spent no CPU time on it.

- **Envoy pair**: two Envoy sidecars, one worker each: HTTP/1.1 in, HTTP/2 over mutual TLS 1.3 between them
  with both SPIFFE IDs checked, RBAC, retries, default statistics, access log off, HTTP/1.1 to the
  application. Its counters proved protocols and RBAC before the first round, and it refused a caller without
  a certificate and one with another SPIFFE ID.
- **busmesh**: `busmesh up` and two agents with all defaults; every request sealed end to end, over one NATS
  server. Both agents counted the first request in their own metrics.
- **no mesh**: the load generator straight at the application: the ceiling of this machine.
- **bare nats-py**: request and reply of plain nats-py, no HTTP, no encryption: the floor of any mesh over
  NATS in Python that uses it as it comes. Its "caller's proxy" is the requester, which is the load
  generator as well.
"""


def tables(samples: Sequence[Sample]) -> list[Table]:
    """Return every table of a run, the most telling first."""
    ran = report.contestants(samples)
    made = []
    if {mesh.NAME, envoy.NAME} <= set(ran):
        made.append(report.budget_table(samples, mesh.NAME, envoy.NAME))
        made.append(report.ratio_table(samples, mesh.NAME, envoy.NAME))
    made += [report.job_table(samples, job) for job in report.jobs(samples)]
    return [*made, report.memory_table(samples), report.round_table(samples)]


def method(rounds: int, seconds: int, warm_up: int) -> str:
    """Return how it was measured."""
    return _METHOD.format(rounds=rounds, seconds=seconds, warm_up=warm_up)


def page(date: datetime.date, facts: Mapping[str, str], how: str, made: Sequence[Table]) -> str:
    """Return the whole page."""
    parts = [
        "# Results",
        f"Written by `make bench` on {date.isoformat()}. "
        "Compare ratios, not absolute figures of different machines.",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## Measured",
        "\n".join(table.markdown() for table in made).rstrip(),
        "## Method",
        how.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"

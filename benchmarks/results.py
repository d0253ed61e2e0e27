"""``RESULTS.md``: the tables, the charts, and what a reader must know to believe or repeat them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from benchmarks import budgets, curl, envoy, mesh, report
from benchmarks.contest import Sample
from benchmarks.tables import Table

_METHOD = """\
Every contestant runs all the time; only one is driven at a time, in turn: {rounds} rounds of {seconds:g} s
for each job, after {warm_up:g} s of warm-up; the references (no mesh, bare nats-py, bus alone) run in every
second round, without. Everything shares the machine: load generator, proxies, bus and application. So
requests/s and MB/s depend on how many cores there are, and **CPU per request** or per GiB (user + system time
of a process tree from `/proc`, divided by the work of the round) is the figure that carries over; "mesh CPU"
is both proxies and, for busmesh, the bus. At one connection it is mostly the price of waking an idle core,
once per hop, and depends on whether something else keeps that core awake. "Others' cores" is what processes
outside the benchmark (and the hypervisor) took meanwhile. Ratios are taken within a round, and their median
is quoted. A sample is invalid if one response was no success or was cut short, or if a proxy or the bus spent
no CPU time on it. A contestant that fails at a job has an invalid sample there; busmesh then misses its bar.

The bars in microseconds were set where an Envoy sidecar costs 32-36 us at 32 connections; the column beside
them says what it cost in this run.

Jobs:

- **get**: closed loop: each connection sends its next request when it has its answer. A stall delays few
  requests, so the p99 of a closed loop is kind.
- **rate**: open loop: request number n is meant for the time n / rate, and its latency counts from then, also
  while it waits for one of 32 connections. The generator is our own (`benchmarks/open_loop.py`): hey, h2load
  and httperf count from the moment of sending, and autocannon spends each second's share at its beginning.
  By itself ours kept 60,000 requests/s with a late p99 of 0.2 ms when it was written; what it does in this
  run is in the row "no mesh", and how exact it was in "generator late": how long after its time a request was
  sent although a connection was free.
- **download, upload**: curl, one connection, the bodies one after the other, without `Expect`. MB are 10^6
  bytes. An upload counts if the application answered with the number of its bytes; nginx hands uploads on to
  a small server that counts them, and "upstream" is both. There is no warm-up: **growth** is the peak of
  resident memory (the kernel's `VmHWM`, set back before) less what was resident before, in the worst round:
  usually the first, in which the processes have never streamed.
- **start**: one more proxy beside the application, until it says that it is ready: for an agent with keys,
  enrolment, policies and the first health check; for Envoy with its configuration in a file.
- **idle**: all contestants stand there, before any load.

Contestants:

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
- **bus alone**: the same in the bare NATS protocol on sockets, and bodies as messages of 64 KiB, 16 of them
  under way: what is left is the bus.
"""


def generators(closed: str) -> str:
    """Return the names of what drives the jobs."""
    return (
        f"{closed} (get), open loop on uvloop and httptools (rate), curl {curl.version()} (download, upload)"
    )


def tables(samples: Sequence[Sample]) -> list[Table]:
    """Return every table of a run, the most telling first."""
    ran = report.contestants(samples)
    made = []
    if {mesh.NAME, envoy.NAME} <= set(ran):
        made.append(budgets.budget_table(samples, mesh.NAME, envoy.NAME))
        made.append(report.ratio_table(samples, mesh.NAME, envoy.NAME))
    made += [report.job_table(samples, job) for job in report.jobs(samples)]
    return [*made, report.memory_table(samples), report.round_table(samples)]


def method(rounds: int, seconds: float, warm_up: float) -> str:
    """Return how it was measured."""
    return _METHOD.format(rounds=rounds, seconds=seconds, warm_up=warm_up)


def page(
    date: datetime.date,
    facts: Mapping[str, str],
    how: str,
    made: Sequence[Table],
    pictures: Mapping[str, str],
) -> str:
    """Return the whole page.

    Args:
        date: the day of the run.
        facts: what was measured on and with.
        how: the method.
        made: the tables.
        pictures: title of a table -> path of the chart that shows it.
    """
    parts = [
        "# Results",
        f"Written by `make bench` on {date.isoformat()}. "
        "Compare ratios, not absolute figures of different machines.",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## Measured",
        *(_section(table, pictures.get(table.title)) for table in made),
        "## Method",
        how.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, picture: str | None) -> str:
    written = table.markdown().rstrip()
    return f"{written}\n\n![{table.title}]({picture})" if picture else written

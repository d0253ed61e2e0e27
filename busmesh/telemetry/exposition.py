"""The Prometheus text format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/

Labels of requests are Istio's, so that queries and dashboards made for it are adapted by renaming.
The route is no label here: each adds a whole histogram; it is in the messages on the bus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from operator import add

from busmesh.telemetry.buckets import BUCKETS, STANDARD_AT, STANDARD_BOUNDS
from busmesh.telemetry.series import RequestMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_HELP_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})
_LE = [f'le="{bound}"' for bound in STANDARD_BOUNDS]


def number(value: float) -> str:
    """Return a value as Go reads it."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)


def labelled(names: Iterable[str], values: Iterable[str]) -> str:
    """Return ``a="x",b="y"`` with the values escaped."""
    return ",".join(
        [f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True)]
    )


def family(name: str, kind: str, help_text: str, samples: Mapping[str, float]) -> list[str]:
    """Return the lines of one counter or gauge, by its label text; none if it has no value."""
    lines = [f"{name}{{{labels}}} {number(value)}" if labels else f"{name} {number(value)}"
             for labels, value in sorted(samples.items())]  # fmt: skip
    return [*_head(name, kind, help_text), *lines] if lines else []


def _head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP {name} {help_text.translate(_HELP_ESCAPES)}", f"# TYPE {name} {kind}"


class _Outcome:
    """The series that show the same labels, which differ by their route, added up."""

    __slots__ = ("buckets", "count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.buckets = [0] * BUCKETS


def requests(table: Iterable[RequestMetrics]) -> list[str]:
    """Return the lines about requests."""
    outcomes: dict[str, _Outcome] = {}
    retries: dict[str, float] = {}
    in_flight: dict[str, float] = {}
    for metrics in table:
        if not metrics.series and not metrics.in_flight:
            continue
        names, values = metrics.labels._fields[:-1], metrics.labels[:-1]
        base = labelled(names, values)
        retries[base] = retries.get(base, 0) + metrics.retries
        in_flight[base] = in_flight.get(base, 0) + metrics.in_flight
        for series in metrics.series.values():
            labels = f"{base},{labelled(('response_code', 'response_flags'), (series.code, series.flags))}"
            outcome = outcomes.setdefault(labels, _Outcome())
            outcome.count += series.count
            outcome.sum += series.sum
            outcome.buckets = list(map(add, outcome.buckets, series.buckets))
    return [
        *family(
            "busmesh_requests_total",
            "counter",
            "Requests that ended, as the reporter saw them.",
            {labels: outcome.count for labels, outcome in outcomes.items()},
        ),
        *_durations(outcomes),
        *family(
            "busmesh_request_retries_total",
            "counter",
            "Tries after the first.",
            retries,
        ),
        *family(
            "busmesh_requests_in_flight",
            "gauge",
            "Requests at work now.",
            in_flight,
        ),
    ]


def _durations(outcomes: Mapping[str, _Outcome]) -> list[str]:
    if not outcomes:
        return []
    name = "busmesh_request_duration_seconds"
    lines = [*_head(name, "histogram", "Duration of requests, from their arrival to their end.")]
    for labels, outcome in sorted(outcomes.items()):
        cumulative = list(accumulate(outcome.buckets))
        start = f"{name}_bucket{{{labels},"
        lines += [f"{start}{le}}} {cumulative[at]}" for le, at in zip(_LE, STANDARD_AT, strict=True)]
        lines.append(f'{start}le="+Inf"}} {outcome.count}')
        lines.append(f"{name}_sum{{{labels}}} {number(outcome.sum)}")
        lines.append(f"{name}_count{{{labels}}} {outcome.count}")
    return lines

"""The load that an instance announces: ORCA's reports read strictly, and rates out of totals."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.members.load import MAX_REPORT, Load, LoadMeter, Report, read_report


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"TEXT cpu_utilization=0.3", Report(0.3, None, None)),
        (b"TEXT cpu_utilization=0.3,application_utilization=0.7", Report(0.7, None, None)),
        (b"TEXT cpu_utilization=0.3, application_utilization=0", Report(0.3, None, None)),
        (b"TEXT cpu_utilization=1.5,rps_fractional=120.5,eps=2", Report(1.5, 120.5, 2.0)),
        (b"TEXT cpu_utilization=0.3,named_metrics.queue=9,mem_utilization=0.5", Report(0.3, None, None)),
        (b" TEXT cpu_utilization=0.3 ", Report(0.3, None, None)),
        (b'JSON {"cpu_utilization": 0.3, "named_metrics": {"a": 1}}', Report(0.3, None, None)),
        (b'JSON {"applicationUtilization": 0.5, "rpsFractional": 9, "eps": 0}', Report(0.5, 9.0, 0.0)),
        (b'JSON {"cpu_utilization": true}', None),
        (b'JSON {"cpu_utilization": "0.3"}', None),
        (b"JSON [0.3]", None),
        (b"JSON {", None),
        (b"JSON " + b"[" * 4000, None),
        (b"TEXT cpu_utilization", None),
        (b"TEXT cpu_utilization=much", None),
        (b"TEXT cpu_utilization=-1", None),
        (b"TEXT cpu_utilization=nan", None),
        (b"TEXT cpu_utilization=inf", None),
        (b"TEXT cpu_utilization=1e300", None),
        (b"TEXT mem_utilization=0.3", None),
        (b"TEXT", None),
        (b"", None),
        (b"cpu_utilization=0.3", None),
        (b"BIN CAEQAQ==", None),
        (b'JSON {"cpu_utilization": 1' + b"0" * 400 + b"}", None),
        (b"TEXT cpu_utilization=0.3," + b"a=1," * MAX_REPORT, None),
    ],
)
def test_reports(value: bytes, expected: Report | None) -> None:
    assert read_report(value) == expected


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"JSON " + tail))
def test_no_bytes_break_it(value: bytes) -> None:
    report = read_report(value)
    assert report is None or math.isfinite(report.utilisation)


@given(st.floats(0.001, 1000), st.floats(0.001, 1e6), st.floats(0, 1e6))
def test_both_forms_mean_the_same(busy: float, rate: float, errors: float) -> None:
    fields = {"cpu_utilization": busy, "rps_fractional": rate, "eps": errors}
    text = "TEXT " + ",".join(f"{name}={value!r}" for name, value in fields.items())
    assert read_report(text.encode()) == Report(busy, rate, errors)
    assert read_report(b"JSON " + json.dumps(fields).encode()) == Report(busy, rate, errors)


def test_rates_are_those_since_the_last_measurement() -> None:
    meter, report = LoadMeter(), Report(0.5, None, None)
    assert meter.measure(1000, 10, report, 5.0) is None, "of the time before nothing is known"
    assert meter.measure(1100, 30, report, 6.0) == Load(qps=100, eps=20, utilisation=0.5)
    assert meter.measure(1150, 30, report, 8.0) == Load(qps=25, eps=0, utilisation=0.5)


def test_what_the_application_says_counts_more() -> None:
    meter = LoadMeter()
    meter.measure(0, 0, None, 0.0)
    assert meter.measure(100, 10, Report(0.5, 7.0, 1.0), 1.0) == Load(qps=7, eps=1, utilisation=0.5)


def test_without_a_report_nothing_is_announced() -> None:
    meter = LoadMeter()
    meter.measure(0, 0, None, 0.0)
    assert meter.measure(100, 0, None, 1.0) is None
    assert meter.measure(200, 0, Report(0.5, None, None), 1.0) is None, "in no time there is no rate"

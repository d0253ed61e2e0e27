from __future__ import annotations

import pytest

from busmesh.telemetry.buckets import FINE_BOUNDS, STANDARD_AT
from busmesh.telemetry.series import MAX_OUTCOMES, Labels, RequestTable, Series

ORDERS = Labels("source", "web", "spiffe://local/ns/default/svc/web/i/web-0", "orders", "v1", "/orders/*")


def test_a_series_counts_sums_and_places_each_duration():
    series = Series("200", "-", failed=False)
    for seconds in (0.004, 0.005, 0.0051, 61.0):
        series.observe(seconds)
    assert series.count == 4
    assert series.sum == pytest.approx(61.0141)
    five_ms = STANDARD_AT[0]
    assert series.buckets[five_ms] == 1  # a bound belongs to its bucket, as le says
    assert series.buckets[five_ms + 1] == 1
    assert series.buckets[len(FINE_BOUNDS)] == 1
    assert sum(series.buckets) == 4


def test_each_status_and_flag_has_its_own_series():
    metrics = RequestTable(capacity=10).of(ORDERS)
    for status, flags in ((200, ""), (200, ""), (503, ""), (503, "UH"), (404, "")):
        metrics.record(status, flags, 0.001)
    assert {key: series.count for key, series in metrics.series.items()} == {
        (200, ""): 2,
        (503, ""): 1,
        (503, "UH"): 1,
        (404, ""): 1,
    }
    assert [series.flags for series in metrics.series.values()] == ["-", "-", "UH", "-"]
    assert {key for key, series in metrics.series.items() if series.failed} == {(503, ""), (503, "UH")}
    assert metrics.count == 5


def test_the_same_labels_give_the_same_object():
    table = RequestTable(capacity=10)
    assert table.of(ORDERS) is table.of(ORDERS)
    assert table.of(ORDERS) is not table.of(ORDERS._replace(route="/"))


def test_empty_labels_are_unknown():
    metrics = RequestTable(capacity=10).of(Labels("source", "web", "", "orders", "", ""))
    assert metrics.labels == Labels("source", "web", "unknown", "orders", "unknown", "unknown")


@pytest.mark.parametrize("field", Labels._fields)
def test_ten_thousand_values_of_any_label_keep_the_number_of_series_constant(field: str):
    table = RequestTable(capacity=50)
    for n in range(10_000):
        table.of(ORDERS._replace(**{field: f"/orders/{n}"})).record(200, "", 0.001)
    assert table.statistics() == {"label_sets": 50, "series": 50, "capacity": 50, "overflow": 9_950}
    assert len(list(table)) == 51
    assert table.other.labels == Labels(*["other"] * 6)
    assert {key: series.count for key, series in table.other.series.items()} == {(2, "other"): 9_950}
    assert sum(metrics.count for metrics in table) == 10_000


def test_past_the_cap_errors_stay_errors():
    table = RequestTable(capacity=1)
    table.of(ORDERS).record(200, "", 0.001)
    for status in (200, 204, 404, 500, 503, 0, 777):
        table.of(ORDERS._replace(route="/new")).record(status, "UH", 0.001)
    told = {series.code: (series.count, series.failed) for series in table.other.series.values()}
    assert told == {"2xx": (2, False), "4xx": (1, False), "5xx": (2, True), "other": (2, False)}


def test_known_labels_are_counted_under_their_own_name_also_when_the_table_is_full():
    table = RequestTable(capacity=2)
    known = table.of(ORDERS)
    known.record(200, "", 0.001)
    for n in range(10):
        table.of(ORDERS._replace(route=str(n))).record(200, "", 0.001)
    assert table.of(ORDERS) is known
    known.record(200, "", 0.001)
    assert known.count == 2


def test_an_application_that_answers_with_every_status_gets_no_more_than_its_share():
    table = RequestTable(capacity=1000)
    metrics = table.of(ORDERS)
    for status in range(100, 1000):
        metrics.record(status, "", 0.001)
    assert len(metrics.series) == MAX_OUTCOMES
    assert table.other.count == 900 - MAX_OUTCOMES
    assert table.statistics()["series"] == MAX_OUTCOMES


def test_a_label_is_cut_and_made_printable():
    table = RequestTable(capacity=10)
    metrics = table.of(ORDERS._replace(route="/a\x1b[2J\n\udcff" + "x" * 500))
    assert (
        metrics.labels.route == "/a\N{REPLACEMENT CHARACTER}[2J" + 2 * "\N{REPLACEMENT CHARACTER}" + "x" * 120
    )
    assert len(metrics.labels.route) == 128


def test_values_that_are_cut_to_the_same_share_a_series_and_nothing_longer_stays_in_memory():
    table = RequestTable(capacity=10)
    first = table.of(ORDERS._replace(route="x" * 128 + "1"))
    for n in range(1000):
        assert table.of(ORDERS._replace(route="x" * 128 + str(n))) is first
    assert table.statistics()["label_sets"] == 1
    assert max(len(value) for metrics in table for value in metrics.labels) == 128


def test_repr_shows_counts():
    table = RequestTable(capacity=10)
    metrics = table.of(ORDERS)
    metrics.record(200, "", 0.25)
    metrics.in_flight += 1
    assert repr(metrics).endswith("orders/v1//orders/* count=1 in_flight=1>")
    assert repr(metrics.series[200, ""]) == "<Series 200 - count=1 sum=0.250000>"
    assert "'series': 1" in repr(table)

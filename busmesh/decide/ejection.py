"""The formulas of outlier detection, and its settings: what Envoy and Istio call `outlierDetection`.

Where Istio's field has another name than Envoy's, Istio's is taken; what Istio leaves out has Envoy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from busmesh.decide.evidence import EvidencePolicy


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """When an instance is ejected, for how long, and how many may be. Durations are in seconds.

    Each way of detecting has an ``enforcing`` percentage: how many of the ejections that it asks for are
    carried out, drawn by lot; the others are only counted, so that a setting can be watched before it acts.
    As in Istio, success rates and failure percentages do not act unless asked to.

    Attributes:
        consecutive_5xx_errors: responses of 5xx in a row; 0 switches this off. A failure that arose on the
            way counts as a 503, or as a 504 if it was a timeout, unless the two are split.
        consecutive_gateway_errors: the same of 502, 503 and 504 alone; off by default.
        split_external_local_origin_errors: count failures on the way apart from what the application said.
        consecutive_local_origin_failures: failures on the way in a row; only if they are split.
        interval: between sweeps. Instances return and rates are looked at only there.
        base_ejection_time: of a first ejection; times the number of ejections after.
        max_ejection_time: of any ejection.
        max_ejection_time_jitter: up to which a random time is added, so that not all return at once.
        max_ejection_percent: of the instances that may be ejected at once, see `ejectable`.
        min_health_percent: if fewer are not ejected, ejections are disregarded and all get traffic; 0: never.
        success_rate_minimum_hosts: with `success_rate_request_volume` requests in an interval, from which on
            success rates are compared.
        success_rate_stdev_factor: thousandths of a standard deviation that a rate may lie below the mean.
        failure_percentage_threshold: at which an instance is ejected, whatever the others do.
        shared: ejection by what all callers see together; None: this agent decides by what it sees itself.
    """

    consecutive_5xx_errors: int = 5
    consecutive_gateway_errors: int = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: int = 5
    interval: float = 10.0
    base_ejection_time: float = 30.0
    max_ejection_time: float = 300.0
    max_ejection_time_jitter: float = 0.0
    max_ejection_percent: int = 10
    min_health_percent: int = 0
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: int = 1900
    failure_percentage_threshold: int = 85
    failure_percentage_minimum_hosts: int = 5
    failure_percentage_request_volume: int = 50
    enforcing_consecutive_5xx: int = 100
    enforcing_consecutive_gateway_failure: int = 100
    enforcing_consecutive_local_origin_failure: int = 100
    enforcing_success_rate: int = 0
    enforcing_local_origin_success_rate: int = 0
    enforcing_failure_percentage: int = 0
    enforcing_failure_percentage_local_origin: int = 0
    shared: EvidencePolicy | None = None


def ejectable(instances: int, percent: int) -> int:
    """Return how many of so many instances may be ejected at once.

    Envoy's rule: the share after an ejection must not exceed ``percent``. By that rule alone the default of
    10 % would never eject anything in a service of fewer than ten; up to 1.26 Envoy therefore ejected one
    in any case, and has since made that the option `always_eject_one_host`. Here it holds always, with two
    exceptions: 0 means none, and the only instance of a service stays unless 100 % may go.
    """
    allowed = instances * percent // 100
    return 1 if allowed == 0 and percent > 0 and instances > 1 else allowed


def ejection_time(multiplier: int, *, base: float, cap: float) -> float:
    """Return for how many seconds an instance is ejected, without jitter."""
    return min(base * multiplier, cap)


def next_multiplier(multiplier: int, *, base: float, cap: float) -> int:
    """Return the multiplier after one more ejection; it stops growing where the cap takes over."""
    return multiplier + 1 if multiplier * base < cap + base else multiplier


def success_rate_threshold(rates: Sequence[float], stdev_factor: int) -> float:
    """Return the success rate below which an instance is an outlier.

    The mean of all rates less so many thousandths of their standard deviation, as Envoy works it out.
    """
    mean = fmean(rates)
    return mean - stdev_factor / 1000 * sqrt(fmean((rate - mean) ** 2 for rate in rates))

from __future__ import annotations

import logging

import pytest

from busmesh.telemetry.sampling import OFF, Sampling, disabled, from_environment


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        (None, None, Sampling(0.01, follow=True)),
        (None, "0.5", Sampling(0.01, follow=True)),
        ("", "0.5", Sampling(0.01, follow=True)),
        ("always_on", None, Sampling(1.0, follow=False)),
        ("always_off", None, Sampling(0.0, follow=False)),
        ("traceidratio", "0.25", Sampling(0.25, follow=False)),
        ("traceidratio", None, Sampling(1.0, follow=False)),
        ("parentbased_always_on", None, Sampling(1.0, follow=True)),
        ("parentbased_always_off", None, Sampling(0.0, follow=True)),
        ("parentbased_traceidratio", "0.25", Sampling(0.25, follow=True)),
        (" Parentbased_TraceIdRatio ", " 0 ", Sampling(0.0, follow=True)),
    ],
)
def test_the_sampler_of_the_environment(
    sampler: str | None, argument: str | None, expected: Sampling, caplog: pytest.LogCaptureFixture
):
    named = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    environ = {name: value for name, value in named.items() if value is not None}
    assert from_environment(environ, 0.01) == expected
    assert caplog.records == []


@pytest.mark.parametrize("sampler", ["jaeger_remote", "xray", "parentbased_xray", "parentbased_"])
def test_a_sampler_that_only_the_applications_sdk_knows_is_passed_over_and_said(
    sampler: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        assert from_environment({"OTEL_TRACES_SAMPLER": sampler}, 0.01) == Sampling(0.01)
    assert f"OTEL_TRACES_SAMPLER {sampler!r} is not known" in caplog.text


@pytest.mark.parametrize("argument", ["a lot", "-0.1", "1.1", "nan", "50%"])
def test_an_argument_that_is_no_share_counts_as_not_given(argument: str, caplog: pytest.LogCaptureFixture):
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": argument}
    with caplog.at_level(logging.WARNING):
        assert from_environment(environ, 0.01) == Sampling(1.0, follow=False)
    assert "is not a share from 0 to 1" in caplog.text


@pytest.mark.parametrize(("value", "off"), [("true", True), (" TRUE ", True), ("1", False), ("", False)])
def test_the_sdk_can_be_disabled(value: str, off: bool):
    environ = {"OTEL_SDK_DISABLED": value, "OTEL_TRACES_SAMPLER": "always_on"}
    assert disabled(environ) is off
    assert (from_environment(environ, 0.01) == OFF) is off


@pytest.mark.parametrize(("ratio", "bound"), [(0.0, 0), (0.5, 2**63), (1.0, 2**64)])
def test_the_bound_is_that_of_the_sdk(ratio: float, bound: int):
    assert Sampling(ratio).bound == bound

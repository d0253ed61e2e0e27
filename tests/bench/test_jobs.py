"""Names of jobs: what is typed, shown in tables and used as file names is one and the same."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.arguments import DEFAULT_OUTPUT, arguments
from benchmarks.jobs import (
    DEFAULT_NAMES,
    Get,
    Idle,
    Rate,
    Start,
    Stream,
    parse_job,
    parse_jobs,
    parse_size,
    size_name,
    size_words,
)


@pytest.mark.parametrize(
    ("name", "job", "words"),
    [
        ("get-1", Get(1, 100), "1 connection, GET of 100 bytes"),
        ("get-32-16k", Get(32, 16384), "32 connections, GET of 16 KiB"),
        ("rate-5000", Rate(5000), "5,000 requests/s at fixed times, GET of 100 bytes"),
        ("download-1g", Stream(upload=False, body_bytes=2**30), "download of 1 GiB"),
        ("upload-1m", Stream(upload=True, body_bytes=2**20), "upload of 256 × 1 MiB"),
        ("start", Start(), "start of one proxy until it is ready"),
        ("idle", Idle(), "nothing to do, before any load"),
    ],
)
def test_a_name_means_a_job_and_a_job_has_that_name(name: str, job: object, words: str) -> None:
    parsed = parse_job(name)
    assert parsed == job
    assert parsed.name == name
    assert str(parsed) == words


def test_every_default_job_has_its_own_name() -> None:
    assert [parse_job(name).name for name in DEFAULT_NAMES] == list(DEFAULT_NAMES)


@given(st.integers(1, 2**33))
def test_sizes_are_read_back(size: int) -> None:
    assert parse_size(size_name(size)) == size


def test_sizes_for_people() -> None:
    assert [size_words(size) for size in (100, 2**10, 2**20, 2**30)] == [
        "100 bytes",
        "1 KiB",
        "1 MiB",
        "1 GiB",
    ]


@pytest.mark.parametrize(
    "name", ["", "get", "get-0", "get-x", "get-1-0", "get-1-1t", "get-1-1k-2", "rate-", "rate--1", "pull-1g"]
)
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no|no job"):
        parse_job(name)


def test_patterns_choose_among_the_default_jobs_and_names_say_any_job() -> None:
    names = [job.name for job in parse_jobs("rate-*,get-64-4k,*load-1g,rate-1000")]
    assert names == ["rate-1000", "rate-5000", "get-64-4k", "download-1g", "upload-1g"]
    with pytest.raises(ValueError, match="no job matches"):
        parse_jobs("put-*")


def test_only_a_whole_run_is_published_unasked() -> None:
    assert arguments([]).output == str(DEFAULT_OUTPUT)
    for part in (["--quick"], ["--jobs", "get-32"], ["--contestants", "envoy"]):
        assert arguments(part).output == "-"
    assert arguments(["--quick", "--output", "x.md"]).output == "x.md"


def test_what_is_said_wins_over_quick() -> None:
    quick: argparse.Namespace = arguments(["--quick", "--rounds", "3"])
    assert (quick.rounds, quick.seconds) == (3, 1.0)
    assert [job.name for job in quick.jobs] == list(DEFAULT_NAMES)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--jobs", "put-*"], "no job matches 'put-*'"),
        (["--contestants", "linkerd"], "no contestant 'linkerd'; there are envoy, busmesh"),
        (["--rounds", "0"], "0 is not between"),
    ],
)
def test_errors_of_the_command_line_say_what_there_is(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(argv)
    assert said in capsys.readouterr().err

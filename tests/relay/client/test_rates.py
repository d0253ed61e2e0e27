"""Slow clients: what counts against them, and what does not."""

from __future__ import annotations

from busmesh.relay.client.rates import Rates


def test_a_body_comes_too_slowly_if_less_came_since_the_look_than_should_have() -> None:
    rates = Rates(least=240)
    rates.look(10.0, 0)
    rates.came += 1199
    assert rates.sends_too_slowly(15.0)
    rates.came += 1
    assert not rates.sends_too_slowly(15.0)
    rates.look(15.0, 0)
    assert rates.sends_too_slowly(20.0)


def test_a_response_is_read_too_slowly_if_the_old_part_of_it_is_left() -> None:
    rates = Rates(least=240)
    rates.wrote = 10_000
    rates.look(10.0, 10_000)
    assert rates.reads_too_slowly(15.0, 10_000)
    assert rates.reads_too_slowly(15.0, 8_801)
    assert not rates.reads_too_slowly(15.0, 8_800)


def test_what_was_written_a_moment_ago_is_not_held_against_the_reader() -> None:
    """Events, one a second, each on its way when somebody looks."""
    rates = Rates(least=240)
    for now in range(10, 60, 5):
        rates.wrote += 500
        assert not rates.reads_too_slowly(float(now), 100)
        rates.look(float(now), 0)


def test_without_a_least_rate_nobody_is_too_slow() -> None:
    rates = Rates(least=0)
    rates.wrote = 10_000
    rates.look(10.0, 10_000)
    assert not rates.reads_too_slowly(1e6, 10_000)
    assert not rates.sends_too_slowly(1e6)

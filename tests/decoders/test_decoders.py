"""Whatever comes over the bus is read or refused: no other error, no long wait; and no reader is left out."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.decoders.decoder import FLOOR, TIMES, USUAL, Decoder
from tests.decoders.package import handlers, readers
from tests.decoders.table import DECODERS, ELSEWHERE, HANDLERS

NAMES = {decoder.name for decoder in DECODERS}


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_what_is_whole_is_taken(decoder: Decoder) -> None:
    """Else its damaged kin would be refused for something that is wrong with all of them."""
    assert [body for body in decoder.whole if not decoder.takes(decoder.wrap(body))] == []


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_damaged_is_read_or_refused(decoder: Decoder, data: st.DataObject) -> None:
    decoder.examine(data.draw(decoder.messages()))


@pytest.mark.parametrize("decoder", [decoder for decoder in DECODERS if decoder.form], ids=str)
def test_a_value_that_does_not_belong_there_is_read_or_refused(decoder: Decoder) -> None:
    for message in decoder.misfits():
        decoder.examine(message)


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_a_bomb_costs_little_time_and_memory(decoder: Decoder) -> None:
    for bomb in decoder.bombs():
        decoder.examine(bomb)
    for bomb in decoder.bombs(USUAL):
        assert decoder.weigh(bomb) <= FLOOR + TIMES * len(bomb), (len(bomb), bomb[:30])


def test_no_reader_and_no_handler_is_left_out() -> None:
    tried = {name for decoder in DECODERS for name in decoder.covers}
    assert readers() - tried - ELSEWHERE.keys() == set(), (
        "give it a decoder, or say where its bytes come from"
    )
    assert handlers() - HANDLERS.keys() == set(), "say which decoder tries what it is handed"
    assert {name for names in HANDLERS.values() for name in names} - NAMES == set()
    gone = (ELSEWHERE.keys() - readers()) | (HANDLERS.keys() - handlers())
    assert gone == set(), "it is no reader any more"
    assert len(NAMES) == len(DECODERS)

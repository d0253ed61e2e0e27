"""Probes: two fixed sizes, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.wire.probe import (
    ProbeState,
    decode_probe,
    decode_probe_result,
    encode_probe,
    encode_probe_result,
)


@given(st.integers(0, 2**64 - 1))
def test_a_probe_comes_back(counter: int) -> None:
    assert decode_probe(encode_probe(counter)) == counter


@pytest.mark.parametrize("state", ProbeState)
def test_a_result_comes_back(state: ProbeState) -> None:
    assert decode_probe_result(encode_probe_result(state)) is state


@given(st.binary(max_size=20).filter(lambda data: len(data) != 8))
def test_a_probe_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_probe(data)


@given(st.binary(max_size=4).filter(lambda data: len(data) != 1 or data[0] not in list(ProbeState)))
def test_another_result_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_probe_result(data)

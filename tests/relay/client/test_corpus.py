"""gunicorn's corpus of invalid requests, held against the parser: each is refused for what is wrong with it.

That nothing of them reaches an application either is shown in ``tests/threats/test_corpus.py``.
"""

from __future__ import annotations

import re

import pytest

from busmesh.names import service_of_authority
from tests.relay.transcript import parse
from tests.support.corpus import INVALID, WAIVED, WAIVED_WITH_HOST, with_host


def refused(data: bytes) -> bool:
    """Say whether a request gets an error, from the parser or because its Host names no service."""
    transcript = parse(data, end=True)
    assert len(transcript.requests) <= 1
    for parsed in transcript.requests:
        assert b"_" not in parsed.head.block or not re.search(rb"(?i)(content|transfer)_", parsed.head.block)
    return bool(transcript.refusals) or all(
        service_of_authority(parsed.authority) is None for parsed in transcript.requests
    )


@pytest.mark.parametrize("name", INVALID)
def test_invalid_requests_are_refused(name: str) -> None:
    assert refused(INVALID[name]) is (name not in WAIVED)


@pytest.mark.parametrize("name", INVALID)
def test_invalid_requests_are_refused_for_more_than_a_missing_host(name: str) -> None:
    assert refused(with_host(INVALID[name])) is (name not in WAIVED_WITH_HOST)

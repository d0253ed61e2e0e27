"""gunicorn's corpus of invalid requests: what is not refused is on a list, each with its reason.

Nearly all of them lack Host, which alone would do; so each is also tried with one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from busmesh.names import service_of_authority
from tests.relay.transcript import parse

CORPUS: dict[str, str] = json.loads(Path(__file__).with_name("gunicorn_invalid.json").read_text())["requests"]
#: S2 of the project's goals: of 81 at least 75 are refused; a pair of Envoys refuses 69.
GOAL = 75

#: Passed on as they are, and why that harms nobody.
WAIVED = {
    "041": "two lines of Content-Type are for the application to judge; they frame and route nothing",
    "rfc9110_trailer_forbidden_host_01": "trailers are dropped, so a Host in one reaches nobody",
    "rfc9112_leading_crlf_02": "RFC 9112 section 2.2 has servers ignore blank lines before a request",
}
#: The same, with the Host added that they lack.
WAIVED_WITH_HOST = {
    **WAIVED,
    "006": "a target of 4 KiB: within our limit, beyond gunicorn's",
    "007": "header lines of 8 KiB: within our limit, beyond gunicorn's",
    "008": "headers of 12 KiB: within our limit, beyond gunicorn's",
    "010": "a limit of 10 bytes per header, set for that test",
    "017": "a header of 8 KiB: within our limit, beyond gunicorn's",
    "limit_header_default_01": "a header of 8 KiB: within our limit, beyond gunicorn's",
    "019": "X-Forwarded-Proto against X-Forwarded-Ssl: whom to believe is the application's setting",
    "040": "Content_Length and Transfer_Encoding are dropped, so they disguise nothing",
    "chunked_07": "Transfer_Encoding is dropped, so it disguises nothing",
}


def with_host(data: bytes) -> bytes:
    """Add the Host that a request lacks, so that something else must be found."""
    line, crlf, rest = data.partition(b"\r\n")
    if not crlf or re.search(rb"(?i)\r\nhost[ \t]*:", data):
        return data
    return b"%b\r\nHost: orders\r\n%b" % (line, rest)


def refused(data: bytes) -> bool:
    """Say whether a request gets an error, from the parser or because its Host names no service."""
    transcript = parse(data, end=True)
    assert len(transcript.requests) <= 1
    for parsed in transcript.requests:
        assert b"_" not in parsed.head.block or not re.search(rb"(?i)(content|transfer)_", parsed.head.block)
    return bool(transcript.refusals) or all(
        service_of_authority(parsed.authority) is None for parsed in transcript.requests
    )


def test_the_corpus_is_whole() -> None:
    assert len(CORPUS) == 81


@pytest.mark.parametrize("name", CORPUS)
def test_invalid_requests_are_refused(name: str) -> None:
    assert refused(CORPUS[name].encode("latin-1")) is (name not in WAIVED)


@pytest.mark.parametrize("name", CORPUS)
def test_invalid_requests_are_refused_for_more_than_a_missing_host(name: str) -> None:
    assert refused(with_host(CORPUS[name].encode("latin-1"))) is (name not in WAIVED_WITH_HOST)


def test_the_goal() -> None:
    assert len(CORPUS) - len(WAIVED) >= GOAL

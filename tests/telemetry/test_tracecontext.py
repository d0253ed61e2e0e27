from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from busmesh.telemetry.tracecontext import TraceParent, parse, trace_id, unsampled, write

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
NUMBERS = (int(TRACE, 16), int(SPAN, 16))
HEX = "0123456789abcdef"


def by_the_letter(header: bytes) -> TraceParent | None:
    """Section 3.2 of the specification, written as slowly as it reads."""
    try:
        text = header.decode("ascii")
    except UnicodeDecodeError:
        return None
    if len(text) < 55 or [text[at] for at in (2, 35, 52)] != ["-"] * 3:
        return None
    version, trace, span, flags = text[:2], text[3:35], text[36:52], text[53:55]
    if any(digit not in HEX for digit in version + trace + span + flags):
        return None
    if version == "ff" or (version == "00" and len(text) != 55) or (len(text) > 55 and text[55] != "-"):
        return None
    if trace == "0" * 32 or span == "0" * 16:
        return None
    return TraceParent(int(trace, 16), int(span, 16), int(flags, 16) % 2 == 1)


@pytest.mark.parametrize(
    ("flags", "sampled"),
    [
        (b"00", False),
        (b"01", True),
        (b"02", False),
        (b"03", True),
        (b"ff", True),
        (b"fe", False),
        (b"0a", False),
    ],
)
def test_only_the_lowest_bit_of_the_flags_counts(flags: bytes, sampled: bool):
    header = b"00-" + TRACE + b"-" + SPAN + b"-" + flags
    assert parse(header) == (*NUMBERS, sampled)
    assert bool(unsampled(header)) is not sampled


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        b"00-" + TRACE + b"-" + SPAN,
        b"00-" + TRACE + b"-" + SPAN + b"-0",
        b"00-" + TRACE + b"-" + SPAN + b"-000",
        b"00-" + TRACE + b"-" + SPAN + b"-00-",
        b"00-" + TRACE + b"-" + SPAN + b"-00-what",
        b"00-" + TRACE + b"-" + SPAN + b"-00\n",
        b" 00-" + TRACE + b"-" + SPAN + b"-00",
        b"ff-" + TRACE + b"-" + SPAN + b"-00",
        b"0-" + TRACE + b"-" + SPAN + b"-00",
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-00",
        b"00-" + TRACE + b"-" + SPAN + b"-0A",
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-00",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-00",
        b"00-" + TRACE[1:] + b"-" + SPAN + b"-000",
        b"00_" + TRACE + b"_" + SPAN + b"_00",
        b"cc-" + TRACE + b"-" + SPAN + b"-01.what",
        b"cc-" + b"0" * 32 + b"-" + SPAN + b"-01-what",
        # two headers, as a request's lines of one name are joined
        b"00-" + TRACE + b"-" + SPAN + b"-00, 00-" + TRACE + b"-" + SPAN + b"-00",
    ],
)
def test_what_is_malformed_counts_as_absent(header: bytes):
    assert parse(header) is None
    assert unsampled(header) is None
    assert by_the_letter(header) is None


@pytest.mark.parametrize("rest", [b"", b"-", b"-what the future holds", b"-\x00\xff\n-"])
def test_of_a_later_version_the_known_fields_are_read(rest: bytes):
    assert parse(b"cc-" + TRACE + b"-" + SPAN + b"-01" + rest) == (*NUMBERS, True)
    assert parse(b"01-" + TRACE + b"-" + SPAN + b"-00" + rest) == (*NUMBERS, False)


NEARLY = st.builds(
    lambda *parts: "-".join(parts).encode(),
    st.sampled_from(["00", "01", "cc", "ff", "fF", "0"]) | st.text(HEX, min_size=2, max_size=2),
    st.text(HEX, min_size=31, max_size=33) | st.just("0" * 32),
    st.text(HEX, min_size=15, max_size=17) | st.just("0" * 16),
    st.text(HEX + "GA-", max_size=6),
)


@given(
    NEARLY | st.binary(max_size=80) | st.text("0123456789abcdefg-", min_size=50, max_size=60).map(str.encode)
)
@example(b"00-" + TRACE + b"-" + SPAN + b"-01")
def test_the_pattern_says_what_the_specification_says(header: bytes):
    expected = by_the_letter(header)
    assert parse(header) == expected
    if header.startswith(b"00"):
        assert bool(unsampled(header)) is (expected is not None and not expected.sampled)
    else:
        assert not unsampled(header)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace: int, span: int, sampled: bool):
    header = write(trace, span, sampled=sampled)
    assert len(header) == 55
    assert parse(header) == (trace, span, sampled)
    assert trace_id(header) == f"{trace:032x}"

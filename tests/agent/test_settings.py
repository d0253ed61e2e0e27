"""What is wrong with a flag or a variable is said of it, with the mend."""

from __future__ import annotations

import pytest

from busmesh.agent.settings import load_definition
from busmesh.errors import InvalidDocument


@pytest.mark.parametrize(
    ("flag", "text", "message", "hint"),
    [
        ("service", "Bad_Name", "--service: service 'Bad_Name' is not a name", "use 1 to 63 of a-z"),
        ("app", "127.0.0.1:80", "--app: not the URL of an application", "write http://127.0.0.1:PORT"),
        ("drain", "5", "--drain: '5' is not a duration", "write 5s"),
        ("outbound", "15001", "--outbound: not an address", "write 127.0.0.1:15001"),
        ("health_interval", "x", "--health-interval: 'x' is not a duration", "write 5s"),
        ("weight", "-1", "--weight must be greater than or equal to 0", ""),
        ("weight", "abc", "--weight: 'abc' cannot be read: write a whole number", ""),
        ("telemetry_tracing", "a", "--telemetry-tracing: 'a' cannot be read: write a number from 0 to 1", ""),
        ("labels", "v1", "--labels: 'v1' cannot be read: write NAME=VALUE, several separated by commas", ""),
    ],
)
def test_a_flag_is_named_with_its_mend(flag: str, text: str, message: str, hint: str) -> None:
    flags = {"set_service": "orders", f"set_{flag}": text}
    with pytest.raises(InvalidDocument) as refused:
        load_definition(None, {}, flags)
    assert refused.value.message == message
    assert refused.value.hint.startswith(hint)


def test_a_variable_is_named_too() -> None:
    with pytest.raises(InvalidDocument, match="BUSMESH_DRAIN: '5' is not a duration"):
        load_definition(None, {"BUSMESH_SERVICE": "orders", "BUSMESH_DRAIN": "5"}, {})

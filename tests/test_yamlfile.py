from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from busmesh.errors import InvalidDocument
from busmesh.yamlfile import (
    FORBIDDEN,
    MAX_BYTES,
    MAX_DEPTH,
    Finding,
    InvalidDocuments,
    Position,
    YamlDocument,
    dotted,
    findings_of,
    model_at,
    nearest,
    read_yaml,
    refuse_errors,
    write_yaml,
)


def only(text: str) -> YamlDocument:
    (document,) = read_yaml(text.encode(), "f.yaml")
    return document


def refusal(data: str | bytes) -> Finding:
    with pytest.raises(InvalidDocuments) as caught:
        read_yaml(data.encode() if isinstance(data, str) else data, "f.yaml")
    (finding,) = caught.value.findings
    return finding


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("9223372036854775807", 2**63 - 1),
        # YAML 1.1 would make booleans, minutes, octals, dates and long numbers of these.
        ("on", "on"),
        ("Yes", "Yes"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("0755", "0755"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("2026-11-23", "2026-11-23"),
        ("=", "="),
        ("'12'", "12"),
        ('"null"', "null"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_are_those_of_json_and_all_else_is_text(text: str, value: object) -> None:
    read = only(f"v: {text}").data
    assert read == {"v": value}
    assert isinstance(read, dict)
    assert type(read["v"]) is type(value)


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3", "BM1105", 3, 1),
        ("a: {b: 1, b: 2}", "BM1105", 1, 11),
        ("a: &x 1\n", "BM1106", 1, 4),
        ("a: *x\n", "BM1106", 1, 4),
        ("<<: {a: 1}", "BM1107", 1, 1),
        ("a:\n  1: b", "BM1108", 2, 3),
        ("true: b", "BM1108", 1, 1),
        ("? [a, b]\n: c", "BM1108", 1, 3),
        ("a: !!python/object/apply:os.system [ls]", "BM1110", 1, 4),
        ("a: !!str 1", "BM1110", 1, 4),
        ("a: ! 1", "BM1110", 1, 4),
        ("a: 9223372036854775808", "BM1111", 1, 4),
        ("a: .inf", "BM1111", 1, 4),
        ("a: .NaN", "BM1111", 1, 4),
        ("a: 1e999", "BM1111", 1, 4),
        ("a: b\n\x00", "BM1104", 2, 1),
        ("a: b\u2028c", "BM1104", 1, 5),
        ("a: \x1b[0m", "BM1104", 1, 4),
        ('a: "\\0"', "BM1104", 1, 4),
        ('a: "\\e"', "BM1104", 1, 4),
        ("a: [1,\n", "BM1101", 2, 1),
        ("a: b: c", "BM1101", 1, 5),
        ("a: b\n\tc: d", "BM1101", 2, 1),
        ("a:\n  b\n c: 1", "BM1101", 3, 3),
        ("--- a\n--- {", "BM1101", 3, 1),
        ("", "BM1113", 0, 0),
        ("# nothing\n---\n", "BM1113", 0, 0),
    ],
)
def test_what_is_outside_the_subset_is_refused_with_its_place(
    text: str, code: str, line: int, column: int
) -> None:
    finding = refusal(text)
    assert (finding.code, finding.line, finding.column) == (code, line, column)
    assert finding.file == "f.yaml"


def test_bytes_that_are_no_utf8_are_refused_where_they_stand() -> None:
    finding = refusal(b"a: b\nc: d\xff")
    assert (finding.code, finding.line, finding.column) == ("BM1102", 2, 5)


def test_a_byte_order_mark_is_let_through() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1", "f")[0].data == {"a": 1}


def test_a_lone_surrogate_cannot_be_smuggled_in_by_an_escape() -> None:
    assert refusal('a: "\\ud800"').code in {"BM1101", "BM1104"}


def test_size_depth_and_count_are_bounded() -> None:
    assert refusal(b" " * (MAX_BYTES + 1)).code == "BM1103"
    assert refusal("[" * 100_000).code == "BM1109"
    assert refusal("- " * 1000).code == "BM1109"
    assert refusal("[" + "1," * 60_000 + "]").code == "BM1112"
    assert only("[" * MAX_DEPTH + "]" * MAX_DEPTH).data is not None


def test_a_file_may_hold_several_documents_each_with_its_own_places() -> None:
    first, second = read_yaml(b"a: 1\n---\n---\nb:\n  - c: 2\n", "f")
    assert (first.data, second.data) == ({"a": 1}, {"b": [{"c": 2}]})
    assert second.position(("b", 0, "c")) == Position(5, 8)
    assert second.position(("b", 0, "c"), key=True) == Position(5, 5)
    assert second.position(("b", 7, "nowhere")) == Position(5, 3)


def test_a_finding_prints_file_line_column_code_message_and_mend() -> None:
    finding = only("a:\n  b: 1").finding("BM2000", "b is odd", ("a", "b"), hint="make it even")
    assert str(finding) == "f.yaml:2:6: BM2000 b is odd (make it even)"
    doubt = YamlDocument({}, "bus").finding("BM2001", "hm", ("a",), level="warning")
    assert str(doubt) == "bus: warning BM2001 hm"


def test_all_findings_are_raised_together_and_warnings_alone_are_not() -> None:
    doubt, fault = Finding("warning", "BM2001", "hm"), Finding("error", "BM2002", "no", hint="mend it")
    refuse_errors([doubt])
    with pytest.raises(InvalidDocument) as caught:
        refuse_errors([doubt, fault])
    assert (caught.value.code, caught.value.hint, caught.value.exit_status) == ("BM2002", "mend it", 5)
    assert str(caught.value) == "warning BM2001 hm\nBM2002 no (mend it)"


def test_the_nearest_key_is_found_in_any_case_and_nothing_is_guessed_wildly() -> None:
    assert nearest("retrys", ["retries", "timeout"]) == "retries"
    assert nearest("IGNOREURICASE", ["ignoreUriCase"]) == "ignoreUriCase"
    assert nearest("xyz", ["retries", "timeout"]) is None
    assert dotted(("spec", "http", 0, "route")) == "spec.http[0].route"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    host_name: str = Field(alias="hostName")
    weight: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    mode: Literal["fast", "slow"] = "fast"
    items: Annotated[tuple[Inner, ...], Field(strict=False)] = ()
    named: dict[str, Inner | None] = {}


def test_what_pydantic_finds_is_said_with_places_and_mends_in_the_order_of_the_file() -> None:
    document = only(
        "mod: fast\nmode: fats\nitems:\n  - hostNam: a\n  - hostName: 3\nnamed: {a: {weight: x}, b: []}"
    )
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(document.data)
    said = [str(finding) for finding in findings_of(caught.value, document, Outer)]
    assert said == [
        "f.yaml:1:1: BM1201 unknown field 'mod' (did you mean 'mode'?)",
        "f.yaml:2:7: BM1204 mode must be 'fast' or 'slow' (did you mean 'fast'?)",
        "f.yaml:4:5: BM1202 items[0].hostName is missing",
        "f.yaml:4:5: BM1201 unknown field 'hostNam' in items[0] (did you mean 'hostName'?)",
        'f.yaml:5:15: BM1203 items[1].hostName must be a valid string (put it in quotes: "3")',
        "f.yaml:6:12: BM1202 named.a.hostName is missing",
        "f.yaml:6:21: BM1203 named.a.weight must be a valid integer",
        "f.yaml:6:28: BM1203 named.b must be a mapping",
    ]


def test_the_model_behind_a_path_is_found_through_lists_mappings_and_options() -> None:
    assert model_at(Outer, ()) is Outer
    assert model_at(Outer, ("items", 3)) is Inner
    assert model_at(Outer, ("named", "any")) is Inner
    assert model_at(Outer, ("mode",)) is None
    assert model_at(Outer, ("nowhere", 0, "x")) is None


clean_text = st.text().filter(lambda text: not FORBIDDEN.search(text))
plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | clean_text
    | st.sampled_from(
        ["on", "yes", "null", "1e3", "0755", "1:30", "<<", "=", "~", "", ".5", "+1", "&a", "*a"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(clean_text, inner, max_size=4),
    max_leaves=12,
)


@given(plain_data)
def test_what_is_written_is_read_back(data: object) -> None:
    text = write_yaml({"data": data})  # type: ignore[dict-item]  # a strategy has no recursive type
    assert read_yaml(text.encode(), "f")[0].data == {"data": data}


@given(
    st.binary(max_size=200)
    | st.text(alphabet="ab:-[]{}&*!|>'\"%@`#?,\n\t 01.<~\\\x00\u2028é", max_size=60).map(str.encode)
)
def test_no_bytes_make_the_reader_raise_anything_else(data: bytes) -> None:
    with suppress(InvalidDocuments):
        assert all(document.data is not None for document in read_yaml(data, "f"))

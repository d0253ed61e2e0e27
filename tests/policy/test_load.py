from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmesh.errors import InvalidDocument
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.load import load_documents
from busmesh.yamlfile import InvalidDocuments

ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
    - MARK
      route:
        - destination: {host: orders}
"""
DESTINATION = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec: {host: orders}
"""


def test_every_finding_of_every_file_is_raised_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ROUTE.replace("MARK", "a: 1\n      b: 2"))
    (tmp_path / "b.yaml").write_text("{")
    with pytest.raises(InvalidDocuments) as caught:
        load_documents(
            [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml", "-"], stdin=io.BytesIO()
        )
    found = [(Path(finding.file).name, finding.line, finding.code) for finding in caught.value.findings]
    assert found == [
        ("a.yaml", 7, "BM1201"),
        ("a.yaml", 8, "BM1201"),
        ("b.yaml", 2, "BM1101"),
        ("c.yaml", 0, "BM1214"),
        ("stdin", 0, "BM1113"),
    ]


def test_files_and_standard_input_are_read_in_order(tmp_path: Path) -> None:
    text = ROUTE.replace("MARK", "name: a")
    (tmp_path / "a.yaml").write_text(text + "---\n" + text.replace("{name: orders}", "{name: b}"))
    read = load_documents(["-", str(tmp_path / "a.yaml")], stdin=io.BytesIO(DESTINATION.encode()))
    assert [str(document.key) for document in read] == ["Destination/orders", "Route/orders", "Route/b"]


def test_a_file_larger_than_a_document_may_be_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (3 << 20))
    with pytest.raises(InvalidDocument) as caught:
        load_documents([tmp_path / "big.yaml"])
    assert caught.value.code == "BM1103"


TOKENS = st.sampled_from(
    "apiVersion kind metadata name spec hosts http match route destination host subset weight timeout headers"
    " busmesh/v1 networking.istio.io/v1 Route VirtualService Destination DestinationRule orders 5s 80 true ~"
    " {} [] '*' uri prefix / regex ( retries trafficPolicy loadBalancer simple".split()
)
TREES = st.recursive(
    TOKENS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.dictionaries(TOKENS.filter(str.isalpha), inner, max_size=5).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=15,
)
SPECS = st.tuples(st.sampled_from(["Route", "Destination"]), TREES).map(
    lambda pair: f"apiVersion: busmesh/v1\nkind: {pair[0]}\nmetadata: {{name: a}}\nspec: {pair[1]}\n"
)


@given(st.binary(max_size=300) | TREES.map(str.encode) | SPECS.map(str.encode))
@settings(deadline=None)
def test_no_bytes_make_the_loader_raise_anything_but_invalid_document(data: bytes) -> None:
    with suppress(InvalidDocument):
        for document in parse_documents(data, "f"):
            assert Document.from_plain(document.plain) == document

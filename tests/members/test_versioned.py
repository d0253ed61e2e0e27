from __future__ import annotations

import json

import msgpack
import pytest

from busmesh.errors import RemoteProtocolError
from busmesh.members.versioned import MAX_CONTAINERS, unpack_nested, unpacked
from busmesh.policy.documents import parse_documents
from busmesh.policy.revision import EMPTY, MAX_REVISION, propose


@pytest.mark.parametrize("one", [b"\x90", b"\x80", b"\x91\xc0", b"\x81\xa1a\xc0"])
def test_lists_and_maps_have_a_bound_of_their_own(one: bytes) -> None:
    def body(count: int) -> bytes:
        return b"\xdd" + count.to_bytes(4) + one * count

    assert isinstance(unpack_nested(body(MAX_CONTAINERS - 1)), list)
    with pytest.raises(ValueError, match="more than 65536 lists and maps"):
        unpack_nested(body(MAX_CONTAINERS))
    with pytest.raises(RemoteProtocolError, match="a report that cannot be read"):
        unpacked(body(MAX_CONTAINERS), "a report")


@pytest.mark.parametrize("body", [b"", b"\x91", b"\xc1", b"\xc0\xc0", b"\x91" * 5000 + b"\x90"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        unpack_nested(body)


def test_the_bound_is_above_the_largest_revision_of_the_shortest_rules() -> None:
    matches = ", ".join(["{uri: {exact: /}}"] * 5_700)
    documents = [
        document
        for name in "abcd"  # a file has fewer values than a revision
        for document in parse_documents(
            f"apiVersion: busmesh/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{hosts: [{name}],"
            f" http: [{{match: [{matches}], route: [{{destination: {{host: a}}}}]}}]}}\n".encode(),
            "a.yaml",
        )
    ]
    made = propose(EMPTY, documents, (), author="a", reason="", now=0.0)
    assert len(json.dumps(made.to_plain(), separators=(",", ":"))) > 0.9 * MAX_REVISION
    body = msgpack.packb(made.to_plain())
    assert unpack_nested(body) == made.to_plain()

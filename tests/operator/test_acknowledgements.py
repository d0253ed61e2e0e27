"""Acknowledgements: their bytes, and when all is said."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import RemoteProtocolError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.signed import seal_signed
from busmesh.identity.verify import Verifier
from busmesh.members.acknowledgement import MAX_BYTES, PURPOSE, Acknowledgement, decode, encode
from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.acknowledgements import MAX_AGE_S, Acknowledgements
from busmesh.policy.revision import EMPTY, Revision, propose
from tests.operator.fakes import MESH, route

NOW = 1_800_000_000.0
REVISION: Revision = propose(EMPTY, [route()], (), author="ann", reason="", now=NOW)


@given(
    st.builds(
        Acknowledgement,
        revision=st.integers(1, 2**53 - 1),
        digest=st.text(max_size=64),
        state=st.sampled_from(["applied", "rejected"]),
        code=st.text(max_size=32),
        reason=st.text(max_size=512),
    )
)
def test_what_is_encoded_is_decoded(said: Acknowledgement) -> None:
    assert decode(encode(said)) == said


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(body)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x00" * (MAX_BYTES + 1), "BM5101"),
        (msgpack.packb([2, {}]), "BM5102"),
        (msgpack.packb([1, {}]), "BM5103"),
        (msgpack.packb([1, {"revision": 0, "digest": "", "state": "applied"}]), "BM5103"),
        (msgpack.packb([1, {"revision": 1, "digest": "", "state": "maybe"}]), "BM5103"),
        (
            msgpack.packb([1, {"revision": 1, "digest": "", "state": "applied", "reason": "x" * 600}]),
            "BM5103",
        ),
        (b"\x91" * 3000, "BM5103"),
    ],
)
def test_what_is_none_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        decode(body)
    assert refused.value.code == code


def test_fields_of_a_later_version_are_ignored() -> None:
    body = msgpack.packb([1, {"revision": 1, "digest": "d", "state": "applied", "colour": "green"}])
    assert decode(body) == Acknowledgement(revision=1, digest="d", state="applied")


def member(instance: str) -> Announcement:
    return Announcement(
        namespace="default",
        service="orders",
        instance=instance,
        incarnation=1,
        sequence=1,
        interval=1,
        state=State.HEALTHY,
    )


class Hall:
    """Two expected agents, a and b, and a way to let anybody speak."""

    def __init__(self, ca: CertificateAuthority) -> None:
        self.ca = ca
        self.heard = Acknowledgements(Verifier(ca.bundle), REVISION, [member("a"), member("b")])

    def say(self, instance: str, *, at: float = NOW, **fields: Any) -> None:
        given = {"revision": 1, "digest": REVISION.digest, "state": "applied", **fields}
        svid = self.ca.issue_svid(SpiffeId.workload(MESH, ServiceName("orders"), instance), NOW)
        body = encode(Acknowledgement.model_validate(given))
        self.heard.take(seal_signed(svid, PURPOSE, body, at), NOW)


def test_all_is_said_when_each_expected_agent_spoke(ca: CertificateAuthority) -> None:
    hall = Hall(ca)
    complete = []
    steps: list[tuple[str, dict[str, Any]]] = [
        ("a", {}),
        ("a", {}),
        ("stranger", {}),
        ("b", {"revision": 2}),
        ("b", {"state": "rejected", "code": "BM1205", "reason": "no", "digest": EMPTY.digest}),
    ]
    for instance, fields in steps:
        hall.say(instance, **fields)
        complete.append(hall.heard.complete)
    assert complete == [False, False, False, False, True]
    assert hall.heard.told(member("a")).revision == 1
    refused = hall.heard.told(member("b")).refused
    assert refused is not None
    assert (refused.revision, refused.code) == (1, "BM1205")
    assert hall.heard.told(member("c")) == member("c")
    assert len(hall.heard.applied | hall.heard.rejected.keys()) == 2  # strangers take no memory


def test_applied_counts_only_for_the_very_set(ca: CertificateAuthority) -> None:
    hall = Hall(ca)
    hall.say("a", digest=EMPTY.digest)
    assert hall.heard.applied == set()


def test_who_applies_it_after_all_has_not_refused_it(ca: CertificateAuthority) -> None:
    hall = Hall(ca)
    hall.say("a", state="rejected", code="BM2201", reason="a gap")
    hall.say("a")
    assert hall.heard.rejected == {}
    assert hall.heard.told(member("a")).refused is None


def test_old_ones_are_replays(ca: CertificateAuthority) -> None:
    hall = Hall(ca)
    hall.say("a", at=NOW - MAX_AGE_S - 21)
    assert (hall.heard.applied, hall.heard.dropped) == (set(), 1)


def test_nobody_expected_is_nothing_to_wait_for(ca: CertificateAuthority) -> None:
    async def main() -> None:
        assert await Acknowledgements(Verifier(ca.bundle), REVISION, []).wait(5)
        assert not await Acknowledgements(Verifier(ca.bundle), REVISION, [member("a")]).wait(0.01)

    asyncio.run(main())

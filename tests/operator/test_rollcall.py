"""What the roll call believes, and what it leaves out."""

from __future__ import annotations

import asyncio
import time

from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.signed import seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import PURPOSE, Announcement, State, encode
from busmesh.names import ServiceName, SpiffeId
from busmesh.operator.rollcall import MAX_AGE_S, call_roll, read_answers
from tests.operator.fakes import MESH, fake_mesh
from tests.support.bus import NatsServer

NOW = 1_800_000_000.0


def announced(instance: str = "orders-0", **fields: object) -> Announcement:
    given = {
        "namespace": "default",
        "service": "orders",
        "incarnation": 1,
        "sequence": 1,
        "interval": 1.0,
        "state": State.HEALTHY,
    }
    return Announcement.model_validate({**given, "instance": instance, **fields})


def svid(ca: CertificateAuthority, instance: str = "orders-0", service: str = "orders") -> Svid:
    return ca.issue_svid(SpiffeId.workload(MESH, ServiceName(service), instance), NOW)


def sealed(signer: Svid, said: Announcement, *, at: float = NOW) -> bytes:
    return seal_signed(signer, PURPOSE, encode(said), at)


def read(ca: CertificateAuthority, *answers: bytes) -> tuple[list[str], int]:
    roll = read_answers(answers, Verifier(ca.bundle), NOW)
    return [member.instance for member in roll.members], roll.dropped


def test_each_instance_counts_once_by_its_latest_word(ca: CertificateAuthority) -> None:
    one = svid(ca)
    old = sealed(one, announced(incarnation=1, sequence=9, weight=1))
    new = sealed(one, announced(incarnation=2, sequence=1, weight=2))
    for answers in ([old, new], [new, old], [new, new]):
        roll = read_answers(answers, Verifier(ca.bundle), NOW)
        assert [member.weight for member in roll.members] == [2]


def test_members_come_by_service_and_instance(ca: CertificateAuthority) -> None:
    said = [announced("b"), announced("a"), announced("c", service="billing")]
    answers = [sealed(svid(ca, a.instance, a.service), a) for a in said]
    assert read(ca, *answers) == (["c", "a", "b"], 0)


def test_what_proves_nothing_is_dropped(ca: CertificateAuthority, impostor: CertificateAuthority) -> None:
    good = sealed(svid(ca), announced())
    bad = [
        b"",
        b"\xc1junk",
        good[:-1] + bytes([good[-1] ^ 1]),
        sealed(svid(impostor), announced()),  # another root
        sealed(svid(ca, "orders-1"), announced()),  # speaks for somebody else
        sealed(svid(ca, service="web"), announced()),  # of another service
        sealed(ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW), announced()),
        seal_signed(svid(ca), "policy.ack", encode(announced()), NOW),  # signed for another purpose
        seal_signed(svid(ca), PURPOSE, b"\x92\x01\xc0", NOW),  # no announcement
        sealed(svid(ca), announced(), at=NOW - MAX_AGE_S - 60),  # recorded a while ago
    ]
    assert read(ca, *bad) == ([], len(bad))
    assert read(ca, *bad, good) == (["orders-0"], len(bad))


def test_who_said_good_bye_is_not_there(ca: CertificateAuthority) -> None:
    stayed = sealed(svid(ca), announced(sequence=1))
    left = sealed(svid(ca), announced(sequence=2, state=State.LEFT))
    assert read(ca, stayed, left) == ([], 0)


def test_only_who_serves_has_labels_that_policies_may_mean(ca: CertificateAuthority) -> None:
    said = [announced("a", labels={"version": "v1"}), announced("b", labels={"version": "v9"}, serves=False)]
    roll = read_answers([sealed(svid(ca, a.instance), a) for a in said], Verifier(ca.bundle), NOW)
    assert roll.live() == {ServiceName("orders"): [{"version": "v1"}]}
    assert [len(members) for members in roll.services().values()] == [2]


def test_everybody_answers_on_a_real_bus(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            for number in range(20):
                await mesh.agent("orders", f"orders-{number:02}")
            await mesh.bus.subscribe(
                mesh.subjects.roll_call,
                lambda subject, reply, payload, headers: mesh.bus.publish(reply.decode(), b"noise"),
            )
            began = time.monotonic()
            roll = await call_roll(mesh.bus, mesh.subjects, mesh.verifier, timeout=0.5)
            assert time.monotonic() - began < 5
            assert [member.instance for member in roll.members] == [f"orders-{n:02}" for n in range(20)]
            assert roll.dropped == 1

    asyncio.run(main())


def test_a_mesh_without_agents_is_empty(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            roll = await call_roll(mesh.bus, mesh.subjects, mesh.verifier)
            assert roll.members == ()

    asyncio.run(main())


def test_what_clocks_showed_and_which_were_so_far_off_that_they_do_not_count(
    ca: CertificateAuthority,
) -> None:
    answers = [sealed(svid(ca, name), announced(name), at=NOW + off) for name, off in (("a", -0.5), ("b", 7))]
    answers += [sealed(svid(ca, "c"), announced("c"), at=NOW + 60), sealed(svid(ca, "d"), announced("e"))]
    roll = read_answers(answers, Verifier(ca.bundle), NOW)
    assert {instance: told - NOW for (_, instance), told in roll.told.items()} == {"a": -0.5, "b": 7.0}
    assert (roll.dropped, roll.astray) == (2, 1)

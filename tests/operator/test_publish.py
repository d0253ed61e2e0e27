"""Publishing against a real bus: what wins, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from busmesh.bus.policylog import LogUnavailable, PolicyLog, RevisionConflict
from busmesh.errors import IdentityError, NotFound
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.revisions import seal_revision
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.names import SpiffeId
from busmesh.operator.publish import Draft, NewerElsewhere, Outcome, View, draft_revision
from busmesh.operator.status import Sync
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.revision import EMPTY, RevisionRefused, propose
from busmesh.yamlfile import InvalidDocuments
from tests.operator.fakes import FakeMesh, fake_mesh, route
from tests.support.bus import NatsServer

KEY = DocumentKey("Route", "default", "orders")


def draft(view: View, *documents: Document, **options: object) -> Draft:
    settings = {"author": "ann", "reason": "", "now": time.time(), **options}
    return draft_revision(view, documents, **settings)  # type: ignore[arg-type]


async def publish(mesh: FakeMesh, *documents: Document, wait: float = 2.0) -> Outcome:
    view = await mesh.look()
    drafted = draft(view, *documents)
    assert drafted.revision is not None
    return await mesh.publisher().publish(view, drafted.revision, wait=wait)


def test_every_agent_acknowledges(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            one = await mesh.agent("orders", "orders-v1-0", version="v1")
            two = await mesh.agent("orders", "orders-v2-0", version="v2")
            outcome = await publish(mesh, route(v1=80, v2=20), wait=5.0)
            assert outcome.trouble == ()
            assert [status.agent for status in outcome.statuses] == ["orders-v1-0", "orders-v2-0"]
            assert outcome.waited < 4  # it went on when all had said something, not when patience ended
            assert one.set.digest == two.set.digest == outcome.revision.digest

            view = await mesh.look()
            assert view.history.current.documents == {KEY: route(v1=80, v2=20)}
            assert [revision.author for revision in view.history.revisions] == ["ann"]

    asyncio.run(main())


def test_of_two_operators_at_once_one_wins(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            bob = mesh.operator("bob")
            await mesh.publish(route("payments"))
            view = await mesh.look()
            ours = draft(view, route(v1=100), allow_dangling=True).revision
            theirs = draft(view, route(v2=100), author="bob", allow_dangling=True).revision
            assert ours is not None
            assert theirs is not None
            results = await asyncio.gather(
                mesh.publisher().publish(view, ours, wait=1),
                mesh.publisher(bob).publish(view, theirs, wait=1),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["Outcome", "RevisionConflict"]
            lost = next(result for result in results if isinstance(result, RevisionConflict))
            assert "busmesh policy history" in lost.hint
            assert lost.exit_status == 1

            after = (await mesh.look()).history
            winner = ours if isinstance(results[0], Outcome) else theirs
            assert after.current.number == 2
            assert after.revisions[-1] == winner

    asyncio.run(main())


def test_a_refused_bundle_changes_nothing(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            await mesh.agent("orders", "orders-v1-0", version="v1")
            await publish(mesh, route("payments"))
            before = await mesh.look()
            with pytest.raises(InvalidDocuments) as refused:
                draft(before, route("web"), route(v1=80, v3=20))
            doubt, refusal = refused.value.findings
            assert (doubt.level, doubt.code) == ("warning", "BM2109")
            assert (refusal.level, refusal.code) == ("error", "BM2103")
            assert "v3" in str(refused.value)
            assert "--allow-dangling" in refusal.hint
            assert (await mesh.look()).history == before.history

            allowed = draft(before, route(v1=80, v3=20), allow_dangling=True)
            assert [finding.level for finding in allowed.findings] == ["warning"]
            assert allowed.revision is not None

    asyncio.run(main())


def test_what_is_published_just_so_makes_no_revision(
    nats_server: NatsServer, ca: CertificateAuthority
) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            await mesh.publish(route(), route("payments"))
            view = await mesh.look()
            assert draft(view, route(), route("payments")).revision is None
            changed = draft(view, route(), route("payments", v1=100), allow_dangling=True).revision
            assert changed is not None
            assert [document.key.name for document in changed.put] == ["payments"]

    asyncio.run(main())


def test_delete_and_rollback(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            agent = await mesh.agent("orders", "orders-v1-0", version="v1")
            first = await mesh.publish(route(v1=100))
            await mesh.publish(route())
            view = await mesh.look()
            gone = draft_revision(view, (), [KEY], author="ann", reason="", now=time.time()).revision
            assert gone is not None
            await mesh.publisher().publish(view, gone, wait=2)
            assert agent.set.documents == {}
            assert agent.set.number == 3

            view = await mesh.look()
            with pytest.raises(NotFound):
                view.history.document(KEY)
            with pytest.raises(RevisionRefused, match="not published"):
                draft_revision(view, (), [KEY], author="ann", reason="", now=time.time())
            with pytest.raises(NotFound):
                view.history.way_back(9)
            put, remove = view.history.way_back(1)
            back = draft_revision(view, put, remove, author="ann", reason="", now=time.time()).revision
            assert back is not None
            await mesh.publisher().publish(view, back, wait=2)
            assert agent.set.number == 4
            assert agent.set.digest == first.digest

    asyncio.run(main())


def test_forged_acknowledgements_count_for_nothing(
    nats_server: NatsServer, ca: CertificateAuthority, impostor: CertificateAuthority
) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            victim = await mesh.agent("orders", "orders-v1-0")
            view = await mesh.look()
            victim.frozen = True
            revision = draft(view, route()).revision
            assert revision is not None
            said = Acknowledgement(revision=1, digest=revision.digest, state="applied")
            other = mesh.ca.issue_svid(SpiffeId.workload("local", victim.name, "orders-v1-1"), time.time())
            fake = impostor.issue_svid(victim.svid.id, time.time())

            def forge(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                victim.acknowledge(said, other)  # a member, and not the one who is waited for
                victim.acknowledge(said, fake)  # the right name, and another root
                victim.acknowledge(said, mesh.ann)  # an operator, and no agent at all
                mesh.bus.publish(mesh.subjects.ack(victim.name, victim.instance), b"\xc1junk")
                wrong = said.model_copy(update={"digest": EMPTY.digest})
                victim.acknowledge(wrong)  # its own, and about another set

            await mesh.bus.subscribe(mesh.subjects.revision, forge)
            outcome = await mesh.publisher().publish(view, revision, wait=0.3)
            assert [status.state for status in outcome.trouble] == [Sync.MISSING]
            assert outcome.dropped == 3

    asyncio.run(main())


def test_who_refuses_lags_or_is_gone_is_told_apart(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            agents = [await mesh.agent("web", f"web-{number}") for number in range(5)]
            view = await mesh.look()
            agents[1].refuses = ("BM1205", "unknown kind")
            agents[2].deaf = True
            agents[3].silent = True  # it applies the revision, and the acknowledgement is lost
            agents[4].frozen = True
            revision = draft(view, route("web")).revision
            assert revision is not None
            outcome = await mesh.publisher().publish(view, revision, wait=0.5)
            states = {status.agent: status.state for status in outcome.statuses}
            assert states == {
                "web-0": Sync.SYNCED,
                "web-1": Sync.REJECTED,
                "web-2": Sync.STALE,
                "web-3": Sync.SYNCED,
                "web-4": Sync.MISSING,
            }
            reasons = {status.agent: status.reason for status in outcome.statuses}
            assert reasons["web-1"] == "BM1205 unknown kind"
            assert len(outcome.trouble) == 3

    asyncio.run(main())


def test_a_lost_log_is_not_begun_again(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            agent = await mesh.agent("orders", "orders-v1-0")
            await mesh.publish(route())
            await mesh.publish(route("web"))
            assert agent.set.number == 2
            lost = asyncio.Event()
            back = asyncio.Event()
            mesh.bus.on_connection(lambda up: back.set() if up else lost.set())
            await asyncio.to_thread(nats_server.restart, keep_store=False)
            await lost.wait()
            await back.wait()
            view = await mesh.look()
            assert view.history.current.number == 0
            with pytest.raises(NewerElsewhere, match="ends at revision 0, but agents hold 2") as refused:
                draft(view, route("payments"))
            assert "orders-v1-0" in refused.value.message
            assert refused.value.code == "BM2301"
            assert await PolicyLog(mesh.bus, mesh.subjects).last() == 0
            assert draft(view, route("payments"), ignore_newer=True).revision is not None

    asyncio.run(main())


def test_without_jetstream_nothing_is_published(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        nats_server.stop()
        nats_server.jetstream = False
        nats_server.start()
        async with fake_mesh(nats_server, ca) as mesh:
            agent = await mesh.agent("orders", "orders-v1-0")
            agent.revision = 42
            with pytest.raises(LogUnavailable) as refused:
                await mesh.look()
            assert "JetStream" in refused.value.hint
            assert "revision 42" in refused.value.hint

    asyncio.run(main())


def test_junk_in_the_log_does_not_stop_the_next_revision(
    nats_server: NatsServer, ca: CertificateAuthority, impostor: CertificateAuthority
) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            await mesh.publish(route())
            now = time.time()
            forged = propose(EMPTY, [route("evil")], (), author="ann", reason="", now=now)
            fake = impostor.issue_svid(mesh.ann.id, now)
            await mesh.log.append(b"junk", 2)
            await mesh.log.append(seal_revision(fake, forged, now), 3)
            [(_, genuine)] = (await mesh.log.read(0))[:1]
            await mesh.log.append(genuine, 4)  # a replay
            view = await mesh.look()
            assert [passed.sequence for passed in view.history.passed] == [2, 3, 4]
            revision = await mesh.publish(route("web"))
            assert revision.number == 2
            after = (await mesh.look()).history
            assert after.current.number == 2
            assert {key.name for key in after.current.documents} == {"orders", "web"}

    asyncio.run(main())


@pytest.mark.parametrize("case", ["expired", "no operator", "other root"])
def test_who_may_not_sign_publishes_nothing(
    case: str, nats_server: NatsServer, ca: CertificateAuthority, impostor: CertificateAuthority
) -> None:
    async def main() -> None:
        async with fake_mesh(nats_server, ca) as mesh:
            if case == "expired":
                past = time.time() - 1000
                svid = mesh.ca.issue_svid(mesh.ann.id, past, lifetime_s=60)
            elif case == "other root":
                svid = impostor.issue_svid(mesh.ann.id, time.time())
            else:
                svid = (await mesh.agent("orders", "orders-v1-0")).svid
            view = await mesh.look()
            revision = draft(view, route()).revision
            assert revision is not None
            with pytest.raises(IdentityError):
                await mesh.publisher(svid).publish(view, revision, wait=1)
            assert await mesh.log.last() == 0

    asyncio.run(main())

"""Dry runs: who may begin one, what an agent makes of it, and what an operator hears."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.agent.dryrun import Asked, DryRuns
from busmesh.decide.dryrun import Comparison, Difference
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, Target
from busmesh.decide.split import Split
from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.dryruns import MAX_DURATION_S, PURPOSE, DryRun, open_dry_run, seal_dry_run
from busmesh.identity.holder import Identity
from busmesh.identity.revisions import open_revision, seal_revision
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members import dryreport
from busmesh.members.dryreport import DryReport, report_of
from busmesh.names import ServiceName, SpiffeId, Subjects
from busmesh.operator.dryrun import Found, Reports, dry_run
from busmesh.policy.compile import Caller, compile_set
from busmesh.policy.revision import EMPTY, PolicySet, Revision, fold, propose
from busmesh.relay.destination.upstreams import Upstreams
from busmesh.relay.outbound.outbound import Beside
from tests.operator.fakes import MESH, fake_mesh, route
from tests.support.bus import NatsServer

NOW = 1_800_000_000.5
NAME = "0123456789abcdef"
WEB, ORDERS = ServiceName("web"), ServiceName("orders")
HEAD = RequestHead(b"GET", b"/", [])


@pytest.fixture(scope="module")
def ann(ca: CertificateAuthority) -> Svid:
    return ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)


def revision(current: PolicySet = EMPTY, now: float = NOW, author: str = "ann", **weights: int) -> Revision:
    document = route("orders", **(weights or {"v1": 80, "v2": 20}))
    return propose(current, [document], (), author=author, reason="", now=now)


# -- the envelope --------------------------------------------------------------------------------------


def code_of(ca: CertificateAuthority, entry: bytes, now: float = NOW) -> str:
    with pytest.raises(BusmeshError) as refused:
        open_dry_run(entry, Verifier(ca.bundle), now)
    return refused.value.code


@pytest.mark.parametrize("proposed", [None, revision()])
def test_what_goes_in_comes_out(ca: CertificateAuthority, ann: Svid, proposed: Revision | None) -> None:
    made = DryRun(NAME, int((NOW + 30) * 1000), proposed)
    assert open_dry_run(seal_dry_run(ann, made, NOW), Verifier(ca.bundle), NOW + 29) == made


def test_neither_a_revision_nor_a_dry_run_passes_for_the_other(ca: CertificateAuthority, ann: Svid) -> None:
    """What was signed to be tried out can never be appended to the log, whoever records it."""
    entry = seal_dry_run(ann, DryRun(NAME, int((NOW + 30) * 1000), revision()), NOW)
    with pytest.raises(IdentityError, match="BM4008"):
        open_revision(entry, Verifier(ca.bundle), NOW)
    assert code_of(ca, seal_revision(ann, revision(), NOW)) == "BM4008"


def test_it_is_over_when_it_says(ca: CertificateAuthority, ann: Svid) -> None:
    entry = seal_dry_run(ann, DryRun(NAME, int((NOW + 30) * 1000), revision()), NOW)
    assert code_of(ca, entry, NOW + 31) == "BM4307"
    forever = DryRun(NAME, int((NOW + 2 * MAX_DURATION_S) * 1000), revision())
    assert code_of(ca, seal_dry_run(ann, forever, NOW)) == "BM4307"


def test_only_an_operator_asks_and_only_for_its_own(ca: CertificateAuthority, ann: Svid) -> None:
    agent = ca.issue_svid(SpiffeId.workload(MESH, ORDERS, "orders-0"), NOW)
    with pytest.raises(IdentityError, match="BM4301"):
        seal_dry_run(agent, DryRun(NAME, 0, revision()), NOW)
    with pytest.raises(IdentityError, match="BM4302"):
        seal_dry_run(ann, DryRun(NAME, 0, revision(author="bob")), NOW)
    forged = seal_signed(agent, PURPOSE, msgpack.packb([1, NAME, int(NOW * 1000) + 1000, None]), NOW)
    assert code_of(ca, forged) == "BM4301"


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        [2, NAME, 1, None],
        [1, "x", 1, None],
        [1, NAME.upper(), 1, None],
        [1, NAME, "1", None],
        [1, NAME, 1.0, None],
        [1, NAME, True, None],
        [1, NAME, 1],
    ],
)
def test_what_cannot_be_read(ca: CertificateAuthority, ann: Svid, fields: Any) -> None:
    assert code_of(ca, seal_signed(ann, PURPOSE, msgpack.packb(fields), NOW)) == "BM4306"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(BusmeshError):
        open_dry_run(data, Verifier(CA.bundle), NOW)


CA = CertificateAuthority.create(MESH, NOW)


# -- the report ----------------------------------------------------------------------------------------


def test_a_report_of_many_long_differences_fits_into_a_message() -> None:
    beside = Comparison(lambda service: None, lambda target: True, 1)  # type: ignore[arg-type, return-value]
    for number in range(200):
        long = f"{number:03d}" + "\u00e9" * 200
        beside.tally.add(Difference(long, long, long, long, long, long, long, ("timeout",) * 8, long))
    told = sum(beside.tally.counts.values()) + beside.tally.others
    read = dryreport.decode(dryreport.encode(report_of(NAME, "comparing", beside, "", "")))
    assert 10 < len(read.differences) < 125
    assert sum(one.count for one in read.differences) + read.others == told == 200
    assert read.differences[0].difference.settings == ("timeout",) * 8


@given(st.binary(max_size=100))
def test_no_bytes_but_a_report_are_one(body: bytes) -> None:
    with pytest.raises(BusmeshError):
        dryreport.decode(body)


# -- an agent ------------------------------------------------------------------------------------------


class Outbox:
    """Takes what an agent publishes, in place of the bus."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def publish(self, subject: str, payload: bytes) -> None:
        assert subject == "busmesh.local.policy.dryreport.default.web.web-0"
        self.sent.append(payload)


class Agent:
    """The actor of one agent, whose requests all come from the test."""

    def __init__(self, ca: CertificateAuthority, ann: Svid) -> None:
        self.set = fold(EMPTY, revision(v1=100))
        self.caller = Caller(WEB)
        self.beside: Beside | None = None
        self.ann = ann
        self.outbox: Any = Outbox()
        identity = Identity(ca.issue_svid(SpiffeId.workload(MESH, WEB, "web-0"), time.time()), ca.bundle)
        self.verifier = identity.verifier
        upstreams = Upstreams(Random(1), lambda service: None, 8)
        self.actor = DryRuns(
            self.outbox,
            Subjects(MESH),
            identity,
            self.caller,
            current=lambda: self.set,
            upstreams=upstreams,
            install=self.install,
            rng=Random(1),
        )

    def install(self, beside: Beside | None) -> None:
        self.beside = beside

    def begin(self, name: str = NAME, seconds: float = 30.0, found: Revision | None = None) -> bytes:
        now = time.time()
        found = found or revision(self.set, now, v1=50, v2=50)
        entry = seal_dry_run(self.ann, DryRun(name, int((now + seconds) * 1000), found), now)
        self.take(entry)
        return entry

    def end(self, name: str = NAME) -> None:
        now = time.time()
        self.take(seal_dry_run(self.ann, DryRun(name, int((now + 30) * 1000), None), now))

    def take(self, entry: bytes) -> None:
        asyncio.run(self.actor.receive(Asked(entry)))

    def request(self) -> None:
        policy = compile_set(self.set, self.caller, rng=Random(2)).service(ORDERS)
        if self.beside is not None:
            self.beside(ORDERS, HEAD, policy.rules[0])

    @property
    def report(self) -> DryReport:
        signed = open_signed(self.outbox.sent[-1], dryreport.PURPOSE, self.verifier, time.time())
        assert signed.signer.id.instance == "web-0"
        return dryreport.decode(signed.body)


@pytest.fixture
def agent(ca: CertificateAuthority) -> Agent:
    return Agent(ca, ca.issue_svid(SpiffeId(MESH, operator="ann"), time.time()))


def test_from_beginning_to_end(agent: Agent) -> None:
    assert agent.beside is None
    entry = agent.begin()
    for _ in range(100):
        agent.request()
    asyncio.run(agent.actor.tick())
    assert (agent.report.stand, agent.report.compared) == ("comparing", 100)
    assert 45 <= agent.report.differences[0].count <= 55
    agent.take(entry)
    assert agent.actor.statistics()["seen"] == 100, "who is told twice does not begin anew"
    agent.end()
    assert agent.beside is None
    assert (agent.report.stand, agent.report.code, agent.report.seen) == ("ended", "", 100)
    agent.take(entry)
    assert agent.beside is None, "what has ended does not begin again, though somebody should repeat it"
    assert agent.set.number == 1


def test_time_ends_it(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.begin(seconds=30)
    later = time.monotonic() + 31
    monkeypatch.setattr("busmesh.agent.dryrun.time.monotonic", lambda: later)
    asyncio.run(agent.actor.tick())
    assert (agent.beside, agent.report.stand) == (None, "ended")


def test_a_revision_in_force_ends_it(agent: Agent) -> None:
    agent.begin()
    agent.actor.policies_changed()
    assert (agent.beside, agent.report.stand, agent.report.code) == (None, "ended", "BM2314")
    agent.end()
    assert agent.report.code == "BM2314", "an operator who ends what is over learns nothing else"


def test_what_does_not_follow_is_refused(agent: Agent) -> None:
    agent.begin(found=revision(now=time.time()))
    assert (agent.beside, agent.report.stand, agent.report.code) == (None, "refused", "BM2202")


def test_there_is_one_at_a_time(agent: Agent) -> None:
    agent.begin()
    agent.begin("f" * 16)
    assert (agent.report.id, agent.report.stand, agent.report.code) == ("f" * 16, "refused", "BM2315")
    asyncio.run(agent.actor.tick())
    assert (agent.report.id, agent.report.stand) == (NAME, "comparing")
    agent.end("f" * 16)
    assert agent.beside is not None


def test_who_is_no_operator_begins_nothing(agent: Agent, ca: CertificateAuthority) -> None:
    bob = ca.issue_svid(SpiffeId.workload(MESH, WEB, "web-1"), time.time())
    body = msgpack.packb([1, NAME, int(time.time() * 1000) + 5000, revision(agent.set).to_plain()])
    agent.take(seal_signed(bob, PURPOSE, body, time.time()))
    assert agent.beside is None
    assert agent.outbox.sent == []
    assert agent.actor.statistics() == {"under_way": False, "forged": 1}


def test_a_trial_that_fails_costs_no_request(agent: Agent) -> None:
    agent.begin()

    def owner(head: RequestHead) -> bytes:
        raise ZeroDivisionError

    assert agent.beside is not None
    agent.beside(ORDERS, HEAD, Rule("x", Split([(Target(ORDERS), 1)], 0.0), owner=owner))
    assert (agent.actor.failed, agent.beside) == (1, None)


# -- an operator ---------------------------------------------------------------------------------------


def test_only_what_an_agent_itself_signed_counts(ca: CertificateAuthority) -> None:
    reports = Reports(Verifier(ca.bundle), NAME)
    web = ca.issue_svid(SpiffeId.workload(MESH, WEB, "web-0"), NOW)
    ann = ca.issue_svid(SpiffeId(MESH, operator="ann"), NOW)

    def send(svid: Svid, **fields: Any) -> None:
        report = DryReport(**{"id": NAME, "stand": "comparing", **fields})
        reports.take(seal_signed(svid, dryreport.PURPOSE, dryreport.encode(report), NOW), NOW)

    send(web, seen=1)
    send(web, seen=9, stand="ended")
    send(web, seen=2)
    send(web, seen=3, stand="ended")
    assert {who: report.seen for who, report in reports.latest.items()} == {(WEB, "web-0"): 9}
    assert reports.over([(WEB, "web-0")])
    assert not reports.over([(WEB, "web-0"), (ORDERS, "orders-0")])
    send(web, id="f" * 16, seen=5)
    assert reports.dropped == 0
    send(ann)
    reports.take(b"junk", NOW)
    assert (reports.dropped, len(reports.latest)) == (2, 1)


def test_agents_that_say_nothing_are_named_and_none_is_left_with_a_dry_run(
    nats_server: NatsServer, ca: CertificateAuthority
) -> None:
    async def scene() -> tuple[Found, list[bytes]]:
        heard: list[bytes] = []
        async with fake_mesh(nats_server, ca) as mesh:
            await mesh.agent("orders", "orders-0")
            await mesh.bus.subscribe(
                mesh.subjects.dry_run, lambda subject, reply, payload, headers: heard.append(payload)
            )
            view = await mesh.look()
            found = await dry_run(
                mesh.bus,
                mesh.subjects,
                mesh.verifier,
                mesh.ann,
                revision(now=time.time()),
                view.roll.members,
                0.1,
                asyncio.Event(),
            )
        return found, heard

    found, heard = asyncio.run(scene())
    assert (found.silent, found.reports) == (((ORDERS, "orders-0"),), {})
    began, ended = (open_dry_run(entry, Verifier(ca.bundle), time.time()) for entry in heard)
    assert began.id == ended.id
    assert began.revision is not None
    assert ended.revision is None

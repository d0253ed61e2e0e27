"""Decoders of signed control messages: what members and operators say of themselves and of others."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import msgpack

from busmesh.agent.evidence import PURPOSE as EVIDENCE
from busmesh.agent.evidence import SharedEvidence
from busmesh.agent.limits import PURPOSE as LIMITS
from busmesh.agent.limits import LimitSharing
from busmesh.agent.members import Members
from busmesh.agent.namesake import Namesake
from busmesh.agent.policies import Policies, Taken
from busmesh.authority.hearing import Hearing
from busmesh.bus.bus import Bus
from busmesh.decide.ratelimit import RateLimiter
from busmesh.decide.report import Report as Evidence
from busmesh.decide.report import Seen
from busmesh.decide.sharereport import Entry, Report
from busmesh.decide.sharing import Sharing
from busmesh.errors import IdentityError, InvalidDocument, RemoteProtocolError
from busmesh.identity.dryruns import PURPOSE as DRY_RUN
from busmesh.identity.dryruns import open_dry_run
from busmesh.identity.revisions import MAX_ENTRY
from busmesh.identity.revisions import PURPOSE as REVISION
from busmesh.identity.signed import open_signed
from busmesh.members import acknowledgement, announcement, dryreport, presence
from busmesh.members.acknowledgement import Acknowledgement
from busmesh.members.announcement import Announcement, Refused, State
from busmesh.members.dryreport import Differing, DryReport
from busmesh.members.load import Load
from busmesh.members.presence import Presence
from busmesh.names import SpiffeId
from busmesh.operator.acknowledgements import Acknowledgements
from busmesh.operator.attendance import read_presences
from busmesh.operator.dryrun import Reports
from busmesh.operator.rollcall import read_answers
from busmesh.policy.compile import Caller
from busmesh.policy.documents import parse_documents
from busmesh.policy.revision import EMPTY, Revision, propose
from busmesh.relay.destination.upstreams import Upstreams
from tests.decoders import world
from tests.decoders.decoder import Decoder
from tests.decoders.world import (
    AUTHORITY,
    NOW,
    OPERATOR,
    ORDERS,
    ORDERS_SVID,
    SUBJECTS,
    VERIFIER,
    WEB_SVID,
    driven,
    signed,
)
from tests.support.processes import ROOT

_MEMBER = Announcement(
    namespace="default",
    service="orders",
    instance="orders-0",
    incarnation=1,
    sequence=1,
    interval=1.0,
    state=State.HEALTHY,
)
_TOLD = _MEMBER.model_copy(
    update={
        "labels": {"version": "v1", "zone": "a/b"},
        "load": Load(qps=1.0, eps=0.5, utilisation=0.7),
        "refused": Refused(revision=3, code="BM1205", reason="no"),
        "locality": "eu/a/1",
        "digest": "a" * 64,
    }
)
_ANNOUNCED = (announcement.encode(_MEMBER), announcement.encode(_TOLD))


class _Hearers:
    """Actors that hear, made anew for each message so that none is old news."""

    bus = cast(Bus, None)

    def member(self, data: bytes) -> object:
        members = Members(self.bus, SUBJECTS, _WEB, _upstreams(), "web-0", "busmesh.local.inbox.web-0")
        members._subscriptions[ORDERS] = 1
        members._hear(data)
        return None if members.forged else members

    def namesake(self, data: bytes) -> object:
        over: list[Announcement] = []
        heard = Namesake(_ORDERS, lambda: _MEMBER, lambda: b"", over.append)
        driven(heard.receive(data))
        return None if heard._refused.count else heard

    def authority(self, data: bytes) -> object:
        heard = Hearing(cast(Any, _Names()), VERIFIER)
        driven(heard.receive(data))
        return None if heard.refused else heard

    def limits(self, data: bytes) -> object:
        sharing = Sharing(born=1, now=0.0)
        actor = LimitSharing(
            self.bus, SUBJECTS, _ORDERS, ORDERS_SVID.id, sharing, RateLimiter(sharing), worker=2
        )
        actor._hear(data)
        return None if actor._refused.count else actor

    def evidence(self, data: bytes) -> object:
        actor = SharedEvidence(self.bus, SUBJECTS, _WEB, WEB_SVID.id, _upstreams())
        actor._hear(data)
        return None if actor._refused.count else actor

    def policies(self, data: bytes) -> object:
        policies = Policies(
            bus=self.bus,
            policy_log=cast(Any, None),
            store=cast(Any, None),
            verifier=VERIFIER,
            caller=Caller(ORDERS),
            apply=lambda snapshot: None,
            rng=Random(1),
        )
        policies.acknowledge = _written
        return policies if policies._take(data) in (Taken.YES, Taken.NOT_NEXT) else None


class _Names:
    """A register in which every name is free."""

    def claim(self, spiffe_id: SpiffeId, until: float) -> bool:
        return until > NOW


def _written(message: Acknowledgement) -> None:
    """Hear an acknowledgement, which must be writable whatever was refused."""
    assert acknowledgement.encode(message)


def _upstreams() -> Upstreams:
    return Upstreams(Random(1), lambda service: None, 10)


_WEB, _ORDERS = world.identity(WEB_SVID), world.identity(ORDERS_SVID)
_HEARERS = _Hearers()


def _roll(data: bytes) -> object:
    return read_answers([data], VERIFIER, NOW).members or None


def _attending(data: bytes) -> object:
    return read_presences([data], VERIFIER, NOW).authorities or None


_PRESENCES = (
    presence.encode(Presence(issues=True)),
    presence.encode(Presence(issues=False, trust=3, revocations="a" * 64, software="1.0")),
)


def _revisions() -> list[Revision]:
    """Return a revision for each file of examples."""
    made = []
    for path in sorted((ROOT / "policies").glob("*.yaml")):
        documents = parse_documents(path.read_bytes(), path.name)
        made.append(propose(EMPTY, documents, (), author="ann", reason="", now=NOW))
    return made


_REVISIONS = _revisions()
_BODIES = tuple(msgpack.packb([1, revision.to_plain()]) for revision in _REVISIONS)
_ACKNOWLEDGED = _REVISIONS[0]


def _acknowledged(data: bytes) -> object:
    heard = Acknowledgements(VERIFIER, _ACKNOWLEDGED, [_MEMBER])
    heard.take(data, NOW)
    return None if heard.dropped else heard


def _reported(data: bytes) -> object:
    reports = Reports(VERIFIER, "0123456789abcdef")
    reports.take(data, NOW)
    return None if reports.dropped else reports


_ACKS = (
    acknowledgement.encode(Acknowledgement(revision=1, digest=_ACKNOWLEDGED.digest, state="applied")),
    acknowledgement.encode(
        Acknowledgement(revision=1, digest=EMPTY.digest, state="rejected", code="BM1205", reason="no")
    ),
)
_DIFFERS = Differing(
    service="orders", method="GET", path="/", goes_before="a", settings=("timeout",), count=3
)
_DRY_REPORTS = (
    dryreport.encode(DryReport(id="0123456789abcdef", stand="comparing", seen=5, compared=4)),
    dryreport.encode(DryReport(id="0123456789abcdef", stand="ended", differences=(_DIFFERS,), others=2)),
)
_DRY_RUNS = tuple(
    msgpack.packb([1, "0123456789abcdef", int((NOW + 60) * 1000), plain])
    for plain in (None, _REVISIONS[0].to_plain(), _REVISIONS[1].to_plain())
)
_LIMIT = Report(1, 1, {b"abcdefgh": Entry(1.5, 3, -0.5), b"hgfedcba": Entry(0.0, 0)}).to_plain()
_SEEN = Evidence(ORDERS, {"orders-0": Seen(10, 5, True), "orders-1": Seen(0, 0, False)}).to_plain()
_BUS = (RemoteProtocolError, IdentityError)

CONTROL = [
    Decoder(
        "signed envelope",
        lambda data: open_signed(data, "member", VERIFIER, NOW),
        (b"body", b""),
        (
            "identity.signed:open_signed",
            "identity.fields:FieldReader.__init__",
            "identity.fields:FieldReader._next",
        ),
        signed(ORDERS_SVID, "member"),
        refuses=_BUS,
    ),
    Decoder(
        "announcement, as agents hear it",
        _HEARERS.member,
        _ANNOUNCED,
        ("agent.members:Members._hear", "members.announcement:decode", "members.versioned:Codec.decode"),
        signed(ORDERS_SVID, "member", live=True),
        "msgpack",
    ),
    Decoder(
        "announcement, as the instance itself hears it",
        _HEARERS.namesake,
        _ANNOUNCED,
        ("agent.namesake:Namesake.receive",),
        signed(ORDERS_SVID, "member", live=True),
        "msgpack",
    ),
    Decoder(
        "announcement, as an authority hears it",
        _HEARERS.authority,
        _ANNOUNCED,
        ("authority.hearing:Hearing.receive",),
        signed(ORDERS_SVID, "member", live=True),
        "msgpack",
    ),
    Decoder(
        "answer to the roll call",
        _roll,
        _ANNOUNCED,
        ("operator.rollcall:read_answers",),
        signed(ORDERS_SVID, "member"),
        "msgpack",
    ),
    Decoder(
        "answer of an authority that is asked whether it is there",
        _attending,
        _PRESENCES,
        ("operator.attendance:read_presences",),
        signed(AUTHORITY, presence.PURPOSE),
        "msgpack",
    ),
    Decoder(
        "acknowledgement",
        _acknowledged,
        _ACKS,
        ("operator.acknowledgements:Acknowledgements.take", "members.acknowledgement:decode"),
        signed(ORDERS_SVID, "policy.ack"),
        "msgpack",
    ),
    Decoder(
        "report of a dry run",
        _reported,
        _DRY_REPORTS,
        ("operator.dryrun:Reports.take", "members.dryreport:decode"),
        signed(ORDERS_SVID, dryreport.PURPOSE),
        "msgpack",
    ),
    Decoder(
        "report of limits",
        _HEARERS.limits,
        (msgpack.packb(_LIMIT), msgpack.packb([3, _LIMIT])),
        ("agent.limits:LimitSharing._hear", "members.versioned:unpacked", "members.versioned:unpack_nested"),
        signed(ORDERS_SVID, LIMITS, live=True),
        "msgpack",
    ),
    Decoder(
        "report of evidence",
        _HEARERS.evidence,
        (msgpack.packb(_SEEN),),
        (
            "agent.evidence:SharedEvidence._hear",
            "members.versioned:unpacked",
            "members.versioned:unpack_nested",
        ),
        signed(ORDERS_SVID, EVIDENCE, live=True),
        "msgpack",
    ),
    Decoder(
        "policy revision",
        _HEARERS.policies,
        _BODIES,
        (
            "identity.revisions:open_revision",
            "identity.revisions:_unpack",
            "policy.revision:Revision.from_plain",
            "policy.documents:Document.from_plain",
            "policy.documents:_read",
        ),
        signed(OPERATOR, REVISION),
        "msgpack",
        cap=MAX_ENTRY,
        seconds=0.1,  # an operator has signed what is dear in it
    ),
    Decoder(
        "dry run",
        lambda data: open_dry_run(data, VERIFIER, NOW),
        _DRY_RUNS,
        ("identity.dryruns:open_dry_run",),
        signed(OPERATOR, DRY_RUN),
        "msgpack",
        (*_BUS, InvalidDocument),
        MAX_ENTRY,
        0.1,
    ),
]

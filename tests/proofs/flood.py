"""What an attacker with every right on the bus sends to each subject, beside what is sent there on any day.

There are four attackers: one who knows nothing of the mesh and sends what is dear to decode; one who has
copied a member's certificate off the bus; one who forges certificates but for the root's signature; and a
member of the mesh, whose signature counts and who signs nonsense.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import msgpack
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from busmesh.decide.report import Report as Evidence
from busmesh.decide.report import Seen
from busmesh.decide.sharereport import Entry, Report
from busmesh.identity.drill import PURPOSE as DRILL
from busmesh.identity.drill import seal_drill
from busmesh.identity.dryruns import DryRun, seal_dry_run
from busmesh.identity.enrol import Enrolment
from busmesh.identity.fields import pack
from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.identity.renew import Renewal
from busmesh.identity.revisions import seal_revision
from busmesh.identity.revocation import Revocation
from busmesh.identity.signed import seal_signed
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid, new_key
from busmesh.identity.trustlog import REVOCATION, seal_revocation
from busmesh.members import announcement
from busmesh.members.announcement import Announcement, State
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.documents import parse_documents
from busmesh.policy.revision import EMPTY, propose
from tests.identity.forge import forge, uri
from tests.support.damage import bombs

ROOT = "busmesh.local"
INBOX = b"busmesh.local.inbox.rogue.1"
MESH, ORDERS, SHOP = "local", ServiceName("orders"), ServiceName("shop")
#: Bytes of an envelope around its body.
ENVELOPE = 1024
ROUTE = b"""\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - route:
    - destination: {host: orders}
"""


@dataclass(frozen=True)
class Kind:
    """One kind of message on the bus.

    Attributes:
        ordinary: makes one as it is sent on any day, different each time.
        purpose: of the envelope that it is in; empty if it is in none.
        signer: whose envelope is heard.
        cap: bytes of the largest that is looked into.
        heard: by whom, of the processes that are measured.
        ordinarily: how many there may be before bounds per second make them cheaper.
        kept: it stays in a log, where whoever heard it reads it once more.
    """

    name: str
    subject: str
    heard: tuple[str, ...]
    ordinary: Callable[[], bytes]
    purpose: str = ""
    signer: str = "member"
    cap: int = 65536
    reply: bytes = INBOX
    ordinarily: int = 1500
    kept: bool = False


class Keys:
    """All keys of a mesh, as its authority's home holds them, and those of an impostor."""

    def __init__(self, home: Home) -> None:
        now = time.time()
        self.home = home
        self.ca = home.authority(MESH)
        self.false = new_key()
        self.orders = home.agent("orders-0").svid()
        self.evil = self.ca.issue_svid(SpiffeId.workload(MESH, ORDERS, "orders-9"), now)
        self.operator = home.operator("root")
        self.identity = Identity(self.evil, self.ca.bundle)

    def by(self, who: str) -> Svid:
        return self.operator if who == "operator" else self.evil


def kinds(keys: Keys) -> list[Kind]:
    """Return every kind of message that an agent or the authority hears on the bus without a session."""
    numbers = count(1)
    orders, operator, member = keys.orders, keys.operator, f"{ROOT}.member.default.orders.orders-0"
    said = Announcement(namespace="default", service="orders", instance="orders-9", incarnation=1, sequence=1,
                        interval=1.0, state=State.LEFT, labels={"version": "v1"})  # fmt: skip

    def announced() -> bytes:
        body = announcement.encode(said.model_copy(update={"sequence": next(numbers)}))
        return seal_signed(keys.evil, "member", body, time.time())

    def revised() -> bytes:
        now = time.time()
        made = propose(
            EMPTY, parse_documents(ROUTE, "r"), (), author="root", reason=f"{next(numbers)}", now=now
        )
        return seal_revision(operator, made, now)

    def tried() -> bytes:
        now = time.time()
        return seal_dry_run(operator, DryRun(f"{next(numbers):016x}", int(now * 1000) + 60_000, None), now)

    def revoked() -> bytes:
        now = time.time()
        target = f"spiffe://{MESH}/ns/default/svc/gone/i/gone-{next(numbers)}"
        return seal_revocation(
            operator, Revocation(target, 0, int(now * 1000), int(now * 1000) + 60_000), now
        )

    def shared() -> bytes:
        entries = {number.to_bytes(8): Entry(1.0, next(numbers)) for number in range(10)}
        return seal_signed(
            keys.evil, "limits", msgpack.packb(Report(1, next(numbers), entries).to_plain()), time.time()
        )

    def seen() -> bytes:
        report = Evidence(ORDERS, {f"orders-{number}": Seen(9, 1, False) for number in range(3)})
        return seal_signed(keys.evil, "evidence", msgpack.packb(report.to_plain()), time.time())

    def hello() -> bytes:
        begun = Handshake.client(keys.identity.tls, orders.id).feed(b"", time.time())
        packed: bytes = msgpack.packb([1, next(numbers).to_bytes(16), begun])
        return packed

    def enrol() -> bytes:
        who = SpiffeId.workload(MESH, ORDERS, f"orders-{next(numbers) % 7 + 20}")
        return Enrolment(keys.home.join_token(), who, new_key(), time.time()).request()

    def renew() -> bytes:
        return Renewal(keys.evil, new_key(), time.time()).request()

    return [
        Kind("announcement", member, ("shop", "orders"), announced, "member"),
        Kind("policy revision", f"{ROOT}.policy.revision", ("shop", "orders"), revised,
             "policy.revision", "operator", 524_288, kept=True),
        Kind("dry run", f"{ROOT}.policy.dryrun", ("shop", "orders"), tried, "policy.dryrun", "operator",
             524_288),
        Kind("entry of the trust log", f"{ROOT}.trust.entry", ("shop", "orders", "authority"), revoked,
             REVOCATION, "operator", 80_000, ordinarily=300, kept=True),
        Kind("drill", f"{ROOT}.trust.drill", ("shop", "orders"),
             lambda: seal_drill(operator, 3000.0, time.time()), DRILL, "operator", 8192, ordinarily=3000),
        Kind("report of limits", f"{ROOT}.limits.default.orders.orders-9", ("orders",), shared, "limits"),
        Kind("report of evidence", f"{ROOT}.evidence.default.orders.orders-9", ("shop",), seen, "evidence"),
        Kind("roll call", f"{ROOT}.roll", ("shop", "orders"), bytes),
        Kind("who?", f"{ROOT}.who.default.orders", ("orders",), bytes),
        Kind("handshake", f"{ROOT}.session.orders-0", ("orders",), hello, cap=32_768,
             ordinarily=250),
        Kind("enrolment", f"{ROOT}.authority.enrol", ("authority",), enrol, cap=8192, ordinarily=500),
        Kind("renewal", f"{ROOT}.authority.renew", ("authority",), renew, "renew", cap=8192,
             ordinarily=500),
    ]  # fmt: skip


def strangers(kind: Kind) -> Iterator[bytes]:
    """Yield what is dear to decode, from a few bytes to what the bus carries."""
    for size in (48, 2048, kind.cap, 1_000_000):
        yield from bombs(size)


def copied(kind: Kind, keys: Keys) -> Iterator[bytes]:
    """Yield envelopes with a true certificate and a signature that is none."""
    der = keys.by(kind.signer).der
    for size in (10, kind.cap - ENVELOPE):
        for number in range(12):
            yield pack(der, int(time.time() * 1000), number.to_bytes(size), keys.evil.sign(b"something else"))


def forged(kind: Kind, keys: Keys) -> Iterator[bytes]:
    """Yield envelopes with certificates that are right in all but the signature, which is looked at last."""
    now = time.time()
    for number in range(24):
        who = (
            f"operator/root-{number}"
            if kind.signer == "operator"
            else f"ns/default/svc/orders/i/orders-{number}"
        )
        change: dict[str, tuple[x509.ExtensionType, bool] | None] = {"names": uri(f"spiffe://{MESH}/{who}")}
        if kind.signer == "operator":
            change["extended"] = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        der = forge(keys.ca, change=change, signer=keys.false, begin=now - 30, end=now + 3600)
        yield pack(der, int(now * 1000), b"body", keys.evil.sign(b"something else"))


def proven(kind: Kind, keys: Keys) -> Iterator[bytes]:
    """Yield envelopes by somebody who may speak here, with what is dear to decode inside."""
    svid = keys.by(kind.signer)
    for size in (48, 8000, 16_000, kind.cap - ENVELOPE):
        for bomb in bombs(min(size, kind.cap - ENVELOPE)):
            yield seal_signed(svid, kind.purpose, bomb, time.time())


def attacks(kind: Kind, keys: Keys) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each attacker with the messages of one wave."""
    yield "who knows nothing", list(strangers(kind))
    if kind.purpose:
        yield "who copied a certificate", list(copied(kind, keys))
        yield "who forges certificates", list(forged(kind, keys))
        yield "who may speak", list(proven(kind, keys))

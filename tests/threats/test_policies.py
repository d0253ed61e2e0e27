"""Threats by documents and by names: who may not publish changes nothing, and no name becomes a subject."""

from __future__ import annotations

import copy
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busmesh.errors import IdentityError, InvalidDocument
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.enrol import Enrolment
from busmesh.identity.revisions import PURPOSE, VERSION, seal_revision
from busmesh.identity.scope import Scope
from busmesh.identity.signed import seal_signed
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid, new_key
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.revision import PolicySet, Revision, propose
from tests.security.rogue import Rogue
from tests.support.mesh import eventually
from tests.threats.raw import exchange, status
from tests.threats.stage import MESH, Stage

REVISION = "busmesh.local.policy.revision"
ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders, namespace: %s}
spec:
  hosts: [%s]
  http:
  - timeout: %ds
    route:
    - destination: {host: %s}
"""
COUNTED = ("forged", "stale", "rejected")


def route(namespace: str, host: str, seconds: int = 9) -> str:
    return ROUTE % (namespace, host, seconds, host)


def in_force(stage: Stage) -> PolicySet:
    """Return the set that the agents hold, as somebody sees it who only listens."""
    page = stage.orders.page("/policies")
    documents = [Document.from_plain(each, file="page") for each in page["documents"]]
    held = PolicySet(page["revision"], {document.key: document for document in documents})
    assert held.digest == page["digest"]
    return held


def made(stage: Stage, author: str, text: str, now: float) -> Revision:
    """Return a revision that would be right in every way, were it by who may make it."""
    put = parse_documents(text.encode(), "evil.yaml")
    return propose(in_force(stage), put, (), author=author, reason="", now=now)


def sealed(svid: Svid, revision: dict[str, Any], now: float, purpose: str = PURPOSE) -> bytes:
    return seal_signed(svid, purpose, msgpack.packb([VERSION, revision]), now)


def scoped(stage: Stage, name: str, scope: Scope) -> Svid:
    return (
        Home(stage.mesh.home)
        .authority(MESH)
        .issue_svid(SpiffeId(MESH, operator=name), time.time(), scope=scope)
    )


def outsiders(stage: Stage, last: bytes, now: float) -> list[bytes]:
    """Return what nobody with a right to it has signed, each for a reason of its own."""
    right = made(stage, "root", route("default", "orders"), now)
    plain, root = right.to_plain(), stage.operator()
    other = CertificateAuthority.create(MESH, now).issue_svid(SpiffeId(MESH, operator="root"), now)
    shipping = scoped(stage, "ann", Scope(namespaces=frozenset({"shipping"})))
    kinds = scoped(stage, "bob", Scope(kinds=frozenset({"Destination"})))
    return [
        last[:-1] + bytes([last[-1] ^ 1]),
        msgpack.packb([VERSION, plain]),
        b"",
        sealed(stage.svid("evil-0"), plain, now),  # a workload is no operator
        sealed(other, plain, now),  # an operator of a mesh that has the same name
        sealed(root, plain, now, "member"),  # signed for another purpose
        sealed(root, plain, now + 3600),  # from the future
        sealed(root, plain, now - 60),  # made at another time than signed
        sealed(shipping, plain, now),  # another's name under it
        seal_revision(shipping, made(stage, "ann", route("default", "orders"), now), now),
        seal_revision(shipping, made(stage, "ann", route("shipping", "orders.default"), now), now),
        seal_revision(kinds, made(stage, "bob", route("default", "orders"), now), now),
    ]  # fmt: skip


def misunderstood(stage: Stage, now: float) -> list[bytes]:
    """Return what an operator has signed and nobody knows: one unknown field refuses the whole."""
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda plain: plain["put"][0]["spec"].update(evil=True),
        lambda plain: plain["put"][0]["spec"]["http"][0].update(evil=True),
        lambda plain: plain["put"][0]["metadata"].update(evil=True),
        lambda plain: plain["put"][0].update(kind="Evil"),
        lambda plain: plain.update(evil=True),
        lambda plain: plain.update(format=2),
    ]
    found = []
    for change in changes:
        plain = made(stage, "root", route("default", "orders"), now).to_plain()
        change(plain)
        found.append(sealed(stage.operator(), plain, now))
    return found


def test_t02_fake_policy(stage: Stage) -> None:
    """Nothing of it is applied, and each is counted for what it is: heard live, and read from the log."""
    [first, *_] = stage.record(REVISION, lambda: stage.mesh.publish(route("default", "orders", 3)))
    [second, *_] = stage.record(REVISION, lambda: stage.mesh.publish(route("default", "orders", 4)))
    stage.restart_shop()  # it has read the log now, and does so again in 30 s: until then it hears live
    now = time.time()
    held = in_force(stage)
    earlier = parse_documents(route("default", "orders").encode(), "older.yaml")
    older = propose(PolicySet(), earlier, (), author="root", reason="", now=now)
    forged, unknown, stale = (
        outsiders(stage, second, now),
        misunderstood(stage, now),
        [first, second, seal_revision(stage.operator(), older, now)],
    )

    def refused() -> dict[str, int]:
        page = stage.shop.page("/policies")
        return {name: page[name] for name in COUNTED}

    before = refused()
    expected = {"forged": 10 * len(forged), "stale": 10 * len(stale), "rejected": 10 * len(unknown)}
    for _ in range(10):
        for payload in [*forged, *unknown, *stale]:
            stage.rogue.publish(REVISION, payload)
        stage.rogue.flush()
    total = {name: before[name] + expected[name] for name in COUNTED}
    eventually(lambda: refused() == total, f"each is counted: {expected}")
    for agent in (stage.shop, stage.orders):
        assert agent.page("/policies")["digest"] == held.digest
        assert agent.page("/policies")["revision"] == held.number
    stage.restart_shop()  # reads the log, where on an open bus all of it lies
    assert refused() == total
    assert stage.shop.page("/policies")["digest"] == held.digest
    # What was refused above for who signed it counts when somebody signs who may.
    ann = scoped(stage, "ann", Scope(namespaces=frozenset({"shipping"})))
    now = time.time()
    allowed = seal_revision(ann, made(stage, "ann", route("shipping", "orders"), now), now)
    stage.rogue.publish(REVISION, allowed)
    for agent in (stage.shop, stage.orders):
        eventually(lambda page=agent.page: page("/policies")["revision"] == held.number + 1, "ann's counts")


#: What subjects are made of, and what else could get between.
ODD = ["a" * 64, "a" * 5000, "$JS.API.>", "_INBOX.>", "busmesh.local.>", "orders.default.svc.cluster.local.x"]
PARTS = [st.sampled_from(["*", ">", "orders", "$JS"]), st.sampled_from(["*", ">", "", "a b", "b.>"])]
NAMES = (
    st.text(st.sampled_from("*>. \t$_-/:\\aA0ö\u0660\u2028\0") | st.characters(codec="utf-8"), max_size=80)
    | st.builds("{}.{}".format, *PARTS)
    | st.sampled_from(ODD)
)
EXAMPLES = settings(deadline=None, suppress_health_check=list(HealthCheck))
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
#: A host that is a name: of one that is not, nothing may become part of a subject.
HOST = re.compile(rf"(?i)[ \t]*{NAME.pattern}(?:\.{NAME.pattern})*(?::[0-9]*)?[ \t]*")
INBOX = "busmesh.local.inbox.rogue.1"


def subscribed(stage: Stage) -> dict[str, set[str]]:
    """Return what each connection has subscribed to, as the server tells it."""
    found = stage.bus.monitor("connz?subs=1&limit=1000")["connections"]
    return {
        f"{each['cid']} {each.get('name', '')}": set(each.get("subscriptions_list", ())) for each in found
    }


def test_t14_subject_injection_by_the_host_header(stage: Stage) -> None:
    before, answers = subscribed(stage), Counter[int]()
    counted = stage.shop.page("/members")["statistics"]["listener"]["refused"]

    @EXAMPLES
    @given(NAMES.filter(lambda text: not {"\r", "\n"} & set(text)))
    def ask(host: str) -> None:
        raw = host.encode()
        if HOST.fullmatch(host) is None:  # else it is a name, and its own business
            answer = status(
                exchange(stage.address(), b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % raw)
            )
            assert answer in (400, 404), raw
            answers[answer] += 1

    ask()
    assert answers[404] > 0 < answers[400]
    refused = stage.shop.page("/members")["statistics"]["listener"]["refused"] - counted
    assert refused == answers[400]
    assert subscribed(stage) == before
    with stage.caller() as caller:
        assert caller.call("/")[0] == 200, "the connection to the bus stands"


def test_t14_subject_injection_by_registration(stage: Stage) -> None:
    """By an instance with a true certificate that announces names which are none."""
    before, evil, sent = subscribed(stage), stage.svid("evil-0"), Counter[str]()
    counted = refusals_of_members(stage)

    @EXAMPLES
    @given(NAMES, NAMES, NAMES)
    def announce(namespace: str, service: str, instance: str) -> None:
        if all(map(NAME.fullmatch, (namespace, service, instance))):
            return  # names, of something that the agent has not asked for
        said = {"namespace": namespace, "service": service, "instance": instance, "incarnation": 2**52,
                "sequence": 2**52, "interval": 1.0, "state": "healthy"}  # fmt: skip
        payload = seal_signed(evil, "member", msgpack.packb([1, said]), time.time())
        stage.rogue.publish("busmesh.local.member.default.orders.orders-9", payload)
        sent["all"] += 1

    announce()
    stage.rogue.flush()
    eventually(lambda: refusals_of_members(stage) - counted == sent["all"], f"all {sent['all']} are counted")
    assert subscribed(stage) == before


def test_t14_subject_injection_by_enrolment(stage: Stage) -> None:
    """By a newcomer whose join token is good: the authority ties no such name to a key."""
    before, asked, answers = subscribed(stage), list[Enrolment](), list[bytes]()
    token = Home(stage.mesh.home).join_token()

    @EXAMPLES
    @given(NAMES.filter(lambda text: len(text) < 100 and NAME.fullmatch(text) is None), st.integers(0, 2))
    def join(name: str, at: int) -> None:
        namespace, service, instance = (name if place == at else "x" for place in range(3))
        who = SpiffeId(MESH, ServiceName(service, namespace), instance)
        asked.append(Enrolment(token, who, new_key(), time.time()))
        rogue.publish("busmesh.local.authority.enrol", asked[-1].request(), reply=INBOX.encode())

    with Rogue(stage.bus.port, INBOX, lambda *message: answers.append(message[3])) as rogue:
        join()
        eventually(lambda: len(answers) == len(asked), "the authority answers each")
    for enrolment, answer in zip(asked, answers, strict=True):
        with pytest.raises(IdentityError):
            enrolment.finish(answer, time.time())
    assert subscribed(stage) == before


def test_t14_subject_injection_by_documents(stage: Stage) -> None:
    """A host in a document that an operator has signed is a name, or the whole revision is refused."""
    before, now = subscribed(stage), time.time()
    counted = stage.shop.page("/policies")["rejected"]
    right, sent = made(stage, "root", route("default", "orders"), now).to_plain(), Counter[bool]()

    @EXAMPLES
    @given(NAMES, st.booleans())
    def publish(name: str, destination: bool) -> None:
        plain = copy.deepcopy(right)
        spec = plain["put"][0]["spec"]
        if destination:
            spec["http"][0]["route"][0]["destination"]["host"] = name
        else:
            spec["hosts"] = [name]
        try:
            Document.from_plain(plain["put"][0], file="evil")
        except InvalidDocument:
            sent[True] += 1
            stage.rogue.publish(REVISION, sealed(stage.operator(), plain, now))
        else:
            assert HOST.fullmatch(name), "what is no name was understood"

    publish()
    stage.rogue.flush()
    eventually(
        lambda: stage.shop.page("/policies")["rejected"] - counted >= sent[True] > 50, "all are counted"
    )
    assert stage.shop.page("/policies")["digest"] == right["previous"]
    assert subscribed(stage) == before


def refusals_of_members(stage: Stage) -> int:
    said = stage.shop.page("/members")["statistics"]
    return int(said["forged"] + said["rejected"])

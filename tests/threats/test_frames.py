"""Threats to sealed frames from whoever carries them: replayed, changed, swapped, lost, cut, blown up."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from busmesh.wire.frame import Kind
from tests.security.rogue import Rogue
from tests.support.mesh import Instance, eventually
from tests.support.processes import Process
from tests.support.streamer import pattern
from tests.threats.faults import FAULTS, every_byte, kind_of, of_body
from tests.threats.middle import Passing, honest
from tests.threats.stage import RELAY, REPLY, Stage, statistics

NUMBERS = count()
BODY = b"0123456789abcdef" * 64 * 1024  # 1 MiB, in several DATA frames
REPLAYED = 3000
TIMEOUT = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: %s}
spec:
  hosts: [%s]
  http:
  - timeout: 1500ms
    route:
    - destination: {host: %s}
"""


def identifier() -> str:
    return f"frame-{next(NUMBERS)}"


def dropped(instance: Instance, part: str) -> int:
    """Return how many frames one side of an agent has dropped, whatever for."""
    found = statistics(instance, part)
    return found["bad_frames"] + found.get("unknown_sessions", 0) + found.get("late_replies", 0)


def more(instance: Instance, part: str, before: int, what: str) -> None:
    eventually(lambda: dropped(instance, part) > before, what)


def test_t04_replay(stage: Stage) -> None:
    """Every frame that was heard, three times, and again to a new process: each is refused and counted."""
    names = [identifier() for _ in range(500)]
    everything: list[tuple[bytes, bytes, bytes]] = []

    def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if subject.startswith(b"busmesh.") and not headers:
            everything.append((subject, reply, payload))

    with Rogue(stage.bus.port, ">", hear) as rogue:
        with stage.caller() as caller:
            for name in names:
                assert caller.call("/", method="POST", body=b"x", x_id=name)[0] == 200
        rogue.flush()
    to = Counter(subject.decode() for subject, _, _ in everything)
    assert min(to[RELAY], to[REPLY]) >= len(names)
    assert 3 * (to[RELAY] + to[REPLY]) >= REPLAYED

    def replay() -> None:
        for subject, reply, payload in everything:
            stage.rogue.publish(subject, payload, reply=reply)
        stage.rogue.flush()

    at_orders, at_shop = dropped(stage.orders, "inbound"), dropped(stage.shop, "outbound")
    for _ in range(3):
        replay()
    for instance, part, before, each in (
        (stage.orders, "inbound", at_orders, to[RELAY]),
        (stage.shop, "outbound", at_shop, to[REPLY]),
    ):
        eventually(
            lambda instance=instance, part=part, least=before + 3 * each: dropped(instance, part) >= least,
            f"each replayed frame is counted at {instance.name}",
        )
    assert statistics(stage.orders, "inbound")["unknown_sessions"] == 0, "refused for coming again"
    stage.restart_orders()  # a new process with new keys
    replay()
    eventually(lambda: statistics(stage.orders, "inbound")["unknown_sessions"] >= to[RELAY], "and again")
    with stage.caller() as caller:
        eventually(lambda: caller.call("/")[0] == 200, "the new process serves")
    hits = stage.hits()
    assert {name: hits[name] for name in names} == dict.fromkeys(names, 1)


@pytest.fixture(scope="module")
def streamer(set_stage: Stage) -> Iterator[Instance]:
    """Start a service that streams both ways."""
    with Process.python("tests.support.streamer", directory=set_stage.mesh.directory, name="streamer") as app:
        yield set_stage.mesh.agent("stream", "stream-0", application=app.ready()["url"])


def talk(stage: Stage) -> None:
    """Ask once with a body in small parts, which comes back so, and once without."""
    with closing(http.client.HTTPConnection(stage.shop.outbound, timeout=20)) as connection:
        connection.putrequest("POST", "/echo", skip_host=True)
        connection.putheader("Host", "stream")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(3):
            connection.send(b"64\r\n%b\r\n" % (b"x" * 100))
            time.sleep(0.02)  # so that each is read, and travels, by itself
        connection.send(b"0\r\n\r\n")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"x" * 300)
        connection.request("GET", "/now", headers={"Host": "stream"})
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()


def test_t06_every_byte_of_every_kind_of_frame_counts(stage: Stage, streamer: Instance) -> None:
    """Each variant arrives and is counted; after all of them the frame itself still counts."""
    talk(stage)
    body = {Kind.DATA, Kind.END}
    ways = {
        b"relay": (streamer, "inbound", {Kind.REQUEST, Kind.REQUEST_OPENING, *body}),
        b"reply": (stage.shop, "outbound", {Kind.RESPONSE, Kind.RESPONSE_OPENING, *body}),
    }
    for way, (instance, part, kinds) in ways.items():
        before, sent = dropped(instance, part), Counter[int]()
        stage.middle.meddle = every_byte(way, kinds, sent)
        talk(stage)
        stage.middle.meddle = honest
        assert set(sent) == kinds
        total = before + sent.total()
        eventually(lambda i=instance, p=part, t=total: dropped(i, p) == t, f"{sent} are counted at {part}")


def upload(stage: Stage, name: str, chunked: bool) -> tuple[int, bool]:
    """Return the status, and whether the application has got all of the body."""
    service, path, length = (
        ("stream", "/sha256", {}) if chunked else ("orders", "/", {"Content-Length": len(BODY)})
    )
    headers = {"Host": service, "x-id": name, **{key: str(value) for key, value in length.items()}}
    parts = (BODY[at : at + 100_000] for at in range(0, len(BODY), 100_000))
    with closing(http.client.HTTPConnection(stage.shop.outbound, timeout=20)) as connection:
        try:
            connection.request("POST", path, body=parts, headers=headers, encode_chunked=chunked)
            answer = connection.getresponse()
            data = answer.read()
        except (http.client.HTTPException, OSError):
            return 0, False
    if answer.status != 200:
        return answer.status, False
    said = json.loads(data)
    return 200, said["sha256"] == hashlib.sha256(BODY).hexdigest() if chunked else said[
        "echo"
    ].encode() == BODY


def download(stage: Stage, size: int, form: str = "") -> bytes | None:
    """Return the body of a response that ended as a whole one."""
    with closing(http.client.HTTPConnection(stage.shop.outbound, timeout=20)) as connection:
        connection.request("GET", f"/bytes?n={size}{form}", headers={"Host": "stream"})
        try:
            answer = connection.getresponse()
            return answer.read() if answer.status == 200 else None
        except (http.client.HTTPException, OSError):
            return None


@pytest.mark.parametrize("chunked", [False, True])
def test_t06_no_part_of_a_request_passes_for_the_whole(
    stage: Stage, streamer: Instance, chunked: bool
) -> None:
    """A body of declared length is whole when all of it is there, one in chunks when that is said."""
    stage.mesh.publish(*(TIMEOUT % (name, name, name) for name in ("orders", "stream")))
    instance = streamer if chunked else stage.orders
    assert upload(stage, identifier(), chunked) == (200, True)
    for what, (fault, unsealed) in FAULTS.items():
        name, before = identifier(), dropped(instance, "inbound")
        stage.middle.meddle = of_body(b"relay", fault(), seen := Counter())
        status, whole = upload(stage, name, chunked)
        stage.middle.meddle = honest
        assert seen[Kind.DATA] >= 2, f"{what}: it did not come to that"
        if what == "end lost" and not chunked:
            assert (status, whole) == (200, True)
            continue
        assert status != 200, what
        assert not [entry for entry in stage.orders.seen() if entry["id"] == name and entry["whole"]], what
        if unsealed:
            more(instance, "inbound", before, f"{what}: it is counted")
    before = dropped(instance, "inbound")
    stage.middle.meddle = lambda message: [message.payload] * 3
    name = identifier()
    assert upload(stage, name, chunked) == (200, True), "repeated frames count once"
    assert chunked or stage.hits()[name] == 1
    assert dropped(instance, "inbound") - before >= 2 * 4


@pytest.mark.parametrize("form", ["", "&chunked=1"])
def test_t06_no_part_of_a_response_passes_for_the_whole(stage: Stage, streamer: Instance, form: str) -> None:
    size = len(BODY)
    assert download(stage, size, form) == pattern(size)
    for what, (fault, unsealed) in FAULTS.items():
        before = dropped(stage.shop, "outbound")
        stage.middle.meddle = of_body(b"reply", fault(), seen := Counter())
        whole = download(stage, size, form)
        assert seen[Kind.DATA] >= 2, f"{what}: it did not come to that"
        assert whole is None or (what == "end lost" and not form and whole == pattern(size)), what
        stage.middle.meddle = honest
        if unsealed:
            more(stage.shop, "outbound", before, f"{what}: it is counted")
    before, parts = dropped(stage.shop, "outbound"), Counter[int]()

    def repeat(message: Passing) -> list[bytes]:
        parts[kind_of(message, b"reply")] += 1
        return [message.payload] * 3

    stage.middle.meddle = repeat
    assert download(stage, size, form) == pattern(size), "repeated frames count once"
    eventually(lambda: dropped(stage.shop, "outbound") - before >= 2 * parts[Kind.DATA], "all are counted")

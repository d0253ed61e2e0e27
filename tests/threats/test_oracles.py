"""Oracles: what is refused is refused in the same bytes, and secrets are compared in constant time."""

from __future__ import annotations

import ast
import re
import time
from contextlib import closing

from busmesh.errors import BusmeshError
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.enrol import Enrolment
from busmesh.identity.jointoken import JoinToken
from busmesh.identity.store import Home
from busmesh.identity.svid import new_key
from busmesh.names import ServiceName, SpiffeId
from busmesh.wire.frame import Kind, Session, unknown_session
from tests.security.rogue import Rogue
from tests.support.client import Caller
from tests.support.mesh import Instance, eventually
from tests.support.processes import ROOT
from tests.threats.stage import HEADER, MESH, RELAY, Stage, statistics
from tests.threats.talker import INBOX, ORDERS, talking

ASKED = b"busmesh.local.reply.rogue-0.0._1"
REVOKED = "spiffe://local/ns/default/svc/peer/i/peer-0"


def ask(stage: Stage, subject: str, asked: list[bytes], reply: bytes, answers: int) -> list[bytes]:
    """Send messages one after the other; return what came back, when so many have come."""
    heard: list[bytes] = []
    with (
        Rogue(stage.bus.port, reply.decode(), lambda *message: heard.append(message[2] + message[3])),
        Rogue(stage.bus.port, f"{reply.decode()}.>", lambda *message: heard.append(message[2] + message[3])),
    ):
        for each in asked:
            stage.rogue.publish(subject, each, reply=reply)
            stage.rogue.flush()
        eventually(lambda: len(heard) >= answers, "what is answered is heard")
        stage.rogue.flush()
    return heard


def call(instance: Instance) -> int:
    with closing(Caller(instance.outbound, "orders")) as caller:
        return caller.call("/")[0]


def test_t22_frames_that_are_not_authentic(stage: Stage) -> None:
    """Of a session that stands: silence. Of any that does not, whatever became of it: one notice."""
    peer = stage.mesh.agent("peer", "peer-0", "--upstreams", "orders")
    assert call(peer) == 200
    [theirs, *_] = stage.record(RELAY, lambda: call(peer))
    [frame, *_] = stage.record(RELAY, lambda: call(stage.shop))
    _, kind, number, counter, stream = HEADER.unpack_from(frame)
    other = Session(number, ORDERS, send=(bytes(32), bytes(12)), receive=(bytes(32), bytes(12)), started=0.0)
    other.sent = counter + 1000
    silent = {
        "a replay": frame,
        "a bad tag": frame[:-1] + bytes([frame[-1] ^ 1]),
        "an unknown key": other.seal(Kind.REQUEST, stream, frame[HEADER.size :]),
        "no ciphertext": frame[: HEADER.size],
        "another kind": frame[:1] + b"\x09" + frame[2:],
        "another stream": frame[:18] + bytes(8) + frame[26:],
        "another counter": frame[:10] + b"\x7f" + frame[11:],
    }
    before = statistics(stage.orders, "inbound")
    assert ask(stage, RELAY, list(silent.values()), ASKED, 0) == []
    expected = before["bad_frames"] + len(silent)
    eventually(lambda: statistics(stage.orders, "inbound")["bad_frames"] == expected, "each is counted")
    stage.mesh.run("identity", "revoke", REVOKED)
    eventually(lambda: call(peer) != 200, "who was revoked is served no more")
    revoked = HEADER.unpack_from(theirs)[2]
    before = statistics(stage.orders, "inbound")
    gone = {"never was": number ^ 1, "of a peer that was revoked": revoked}
    frames = [HEADER.pack(1, kind, each, counter, stream) + frame[HEADER.size :] for each in gone.values()]
    assert ask(stage, RELAY, [*frames, theirs], ASKED, 3) == [
        *(unknown_session(each, stream) for each in gone.values()),
        unknown_session(revoked, HEADER.unpack_from(theirs)[4]),
    ], "nothing in it that whoever asked has not written"
    after = statistics(stage.orders, "inbound")["unknown_sessions"]
    assert after - before["unknown_sessions"] == 3


def test_t22_certificates_that_do_not_count(stage: Stage) -> None:
    """Whoever shakes hands learns that a certificate was refused, and not why."""
    now, ca = time.time(), Home(stage.mesh.home).authority(MESH)
    who = SpiffeId.workload(MESH, ServiceName("evil"), "evil-7")
    bad = {
        "of another root": CertificateAuthority.create(MESH, now).issue_svid(who, now),
        "expired": ca.issue_svid(who, now - 7200, lifetime_s=3600),
        "not valid yet": ca.issue_svid(who, now + 3600),
        "of an operator's": ca.issue_svid(SpiffeId(MESH, operator="ann"), now),
        "revoked": ca.issue_svid(SpiffeId.workload(MESH, ServiceName("revoked"), "revoked-0"), now),
    }
    stage.mesh.run("identity", "revoke", str(bad["revoked"].id))
    before, heard = statistics(stage.orders, "handshakes"), dict[str, tuple[int, str]]()
    with talking(stage) as talker:
        assert talker.shake(ca.issue_svid(who, now)).done, "with a good one it is a session"
        for what, svid in bad.items():
            try:
                talker.shake(svid)
            except BusmeshError as error:
                assert talker.last[:5] == b"\x17\x03\x03" + (len(talker.last) - 5).to_bytes(2), (
                    "one sealed record"
                )
                heard[what] = (len(talker.last), str(error))
    assert heard.keys() == bad.keys()
    assert len(set(heard.values())) == 1, heard
    after = statistics(stage.orders, "handshakes")
    assert after["refused"] - before["refused"] == len(bad)
    assert after["completed"] - before["completed"] == 1


def test_t22_join_tokens_that_do_not_count(stage: Stage) -> None:
    """An unknown token, a wrong secret and junk get the same bytes."""
    token, now = Home(stage.mesh.home).join_token(), time.time()
    who = SpiffeId.workload(MESH, ServiceName("new"), "new-0")

    def request(of: JoinToken) -> bytes:
        return Enrolment(of, who, new_key(), now).request()

    wrong = JoinToken(MESH, token.id, bytes(32))
    requests = [request(JoinToken.generate(MESH)), request(wrong), b"junk", b"", request(token)[:-1] + b"x"]
    answers = ask(stage, "busmesh.local.authority.enrol", requests, INBOX.encode(), len(requests))
    assert len(answers) == len(requests)
    assert len(set(answers)) == 1
    [right] = ask(stage, "busmesh.local.authority.enrol", [request(token)], INBOX.encode(), 1)
    assert right not in answers, "with the right one there is another answer"


#: Names of what nobody outside may learn byte by byte, and comparisons of what is none of it.
SECRET = re.compile(r"(?:^|_)(?:mac|hmac|secret|password|token|signature|tag|private|seed|proof)s?(?:_|$)")
HARMLESS = {
    "bus/nkeys.py: raw[0] & 248 != _SEED",  # of which kind a key is
    "decide/breaker.py: token != self.generation",  # the number of a generation
    "decide/breaker.py: token == self.generation",
    "decide/sticky.py: token == sent",  # the name of an instance, which its client knows
    "identity/jointoken.py: len(secret) != _SECRET_BYTES",
    "identity/trust.py: root.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256",
    "identity/verify.py: certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256",
}


def compared() -> set[str]:
    found = set()
    for path in (ROOT / "busmesh").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                for side in (node.left, *node.comparators):
                    name = side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "")
                    if SECRET.search(name.lower()):
                        found.add(f"{path.relative_to(ROOT / 'busmesh')}: {ast.unparse(node)}")
    return found


def test_t22_no_secret_is_compared_byte_by_byte() -> None:
    assert compared() == HARMLESS

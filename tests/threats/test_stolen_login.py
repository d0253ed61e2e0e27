"""S12: whoever has the bus login of another service has no effect on a service and on its callers.

Each attack goes through what the login may do, or through what it may not. Each shows that it took place:
what came is counted where it is refused, or was heard on the bus, or the server said no.
"""

from __future__ import annotations

import pytest

from tests.threats.stolen import ANSWER, INBOX, MEMBER, OWN, RELAY, ROOT, SESSION, Stolen
from tests.threats.thefts import (
    another_answer,
    answers_of_before,
    answers_that_it_may_not_give,
    asked_for_the_caller,
    ended,
    flood,
    frames_of_before,
    nobody_there,
    notice_to_the_caller,
    odd_subjects,
    opening_answered_elsewhere,
    opening_of_before,
    renewed_in_its_name,
    restarted,
    stand_between,
    through_the_log,
    told_to_the_caller,
    unheeded,
)
from tests.threats.thief import (
    ANSWERS,
    FORGED,
    FRAMES,
    HANDSHAKES,
    STALE,
    Attack,
    altered,
    at_once,
    attempt,
    genuine,
    junk,
    repeat,
)

ATTACKS = [
    Attack("junk announced", repeat(OWN, junk), FORGED),
    Attack("its announcement repeated from another subject", repeat(OWN, genuine), STALE),
    Attack("its certificate under other words", repeat(OWN, altered), FORGED),
    Attack("its departure told to the caller alone", told_to_the_caller, FORGED),
    Attack("asked for the caller, who?", asked_for_the_caller, STALE),
    Attack("junk for an answer", repeat(ANSWER, lambda stage: b"junk"), ANSWERS),
    Attack("answers of before", answers_of_before, ANSWERS),
    Attack("another answer, at once", at_once(another_answer), ANSWERS),
    Attack("it has restarted, it is said at once", at_once(restarted), ANSWERS),
    Attack("nobody is there, it is said at once", nobody_there, ""),
    Attack("requests of before", frames_of_before, FRAMES),
    Attack("the end of a stream under way", at_once(ended), FRAMES),
    Attack("a notice that the service sends to the caller", notice_to_the_caller, ANSWERS),
    Attack("answers that the service may not give", answers_that_it_may_not_give, ""),
    Attack("junk for a handshake", repeat(SESSION, junk, reply=INBOX.encode()), HANDSHAKES),
    Attack("a handshake of before", opening_of_before, HANDSHAKES),
    Attack("a handshake answered to the caller", opening_answered_elsewhere, ""),
    Attack("the log's answers as announcements", through_the_log(MEMBER), FORGED),
    Attack(
        "the log's answers as policies",
        through_the_log(f"{ROOT}.policy.revision"),
        "shop/policies:forged",
    ),
    Attack(
        "the log's answers as dry runs",
        through_the_log(f"{ROOT}.policy.dryrun"),
        "orders/policies:dry_run.forged",
    ),
    Attack(
        "the log's answers as trust and drills",
        unheeded(through_the_log(f"{ROOT}.trust.entry", f"{ROOT}.trust.drill", f"{ROOT}.roll")),
        "",
    ),
    Attack("the log's answers as requests", through_the_log(RELAY), FRAMES),
    Attack("the log's answers as the service's", through_the_log(f"{ROOT}.reply.shop-0.0.orders-0"), ANSWERS),
    Attack(
        "the log's answers as what is shared of limits",
        through_the_log(f"{ROOT}.limits.default.orders.orders-1"),
        "orders/breakers:sharing.forged",
    ),
    Attack(
        "junk for evidence",
        repeat(f"{ROOT}.evidence.default.orders.parcel-0", junk),
        "shop/breakers:evidence.forged",
    ),
    Attack("a renewal in its name", renewed_in_its_name, ""),
    Attack("odd subjects", odd_subjects, ""),
    Attack("in its place in a group", stand_between, ""),
    Attack("a flood of all that it may", flood, FRAMES),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_s12_what_a_stolen_login_may_do_has_no_effect(robbed: Stolen, attack: Attack) -> None:
    attempt(robbed, attack)


DENIED = {
    "announces itself as the service": [MEMBER],
    "acknowledges, reports and tells in its place": [
        f"{ROOT}.policy.ack.default.orders.orders-0",
        f"{ROOT}.policy.dryreport.default.orders.orders-0",
        f"{ROOT}.limits.default.orders.orders-0",
        f"{ROOT}.limits.default.orders.parcel-0",
        f"{ROOT}.evidence.default.orders.shop-0",
        f"{ROOT}.telemetry.access.default.orders.orders-0",
    ],
    "answers in its place": [
        f"{ROOT}.reply.shop-0.0.orders-0",
        f"{ROOT}.reply.shop-0.0._1.orders-0",
        f"{ROOT}.reply.shop-0.0._1",
        f"{ROOT}.inbox.shop-0.who.default-orders.orders-0",
        f"{ROOT}.inbox.shop-0.who.default-orders",
        f"{ROOT}.gone.orders-0.1.1",
    ],
    "publishes as operator or authority": [
        f"{ROOT}.policy.revision",
        f"{ROOT}.policy.dryrun",
        f"{ROOT}.trust.entry",
        f"{ROOT}.trust.drill",
        f"{ROOT}.authority.enrol",
        f"{ROOT}.authority.shutout",
        f"{ROOT}.roll",
    ],
    "asks JetStream and the server": [
        "$JS.API.STREAM.PURGE.BUSMESH_local_POLICY",
        "$JS.API.STREAM.DELETE.BUSMESH_local_POLICY",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.CLAIMS.UPDATE",
    ],
}


@pytest.mark.parametrize("what", DENIED)
def test_s12_what_a_stolen_login_may_not_do_is_denied(robbed: Stolen, what: str) -> None:
    def act(stage: Stolen) -> int:
        with stage.another() as other:
            for subject in DENIED[what]:
                other.publish(subject, genuine(stage), reply=INBOX.encode())
                # By the server's own hand: what it tells of the way of a message.
                trace = b"NATS/1.0\r\nNats-Trace-Dest: %b\r\n\r\n" % subject.encode()
                other.publish(OWN, b"junk", headers=trace)
            other.flush()
            for subject in DENIED[what]:
                said = [error for error in other.errors if f'"{subject}"' in error]
                assert len(said) == 2, (subject, other.errors)
        return 0

    attempt(robbed, Attack(what, act, ""))


def test_s12_it_takes_no_message_of_the_service(robbed: Stolen) -> None:
    """Not alone and not in a group of which the bus serves one."""
    taken = (RELAY, f"{RELAY}.*", SESSION, f"{ROOT}.who.default.orders", f"{ROOT}.reply.shop-0.>")

    def act(stage: Stolen) -> int:
        with stage.another() as other:
            for subject in taken:
                for group in ("", "orders"):
                    other.subscribe(subject, group)
            other.flush()
            for subject in taken:
                assert sum(f'"{subject}"' in error for error in other.errors) == 2, (subject, other.errors)
        return 0

    attempt(robbed, Attack("takes messages", act, ""))

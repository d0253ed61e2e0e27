"""What each role may do on a bus that is locked down: no more than its own code does.

Everything above the bus holds against whoever may do everything on it; this is the second wall. It makes a
stolen login worth one instance: it can speak as nobody else, and hear nobody else's answers.

What stays open to every agent is what any agent must do at any time to peers that it does not know yet: send
a request to any instance, begin a handshake with any, ask who serves what, and hear announcements.

The logs are in an account of their own (:mod:`busmesh.bus.accounts`). What is said here of them is what may
be asked from the mesh's account, except for :func:`writer_permissions`, those of a login to the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from busmesh.bus.jwt import Permissions, Shared
from busmesh.names import ServiceName, Subjects, token

#: Subscriptions on one connection: an agent has about ten, and two for each service that it calls.
AGENT_SUBSCRIPTIONS = 10_000
#: A newcomer hears one inbox, and says no more than a request to enrol, of at most 4 KiB.
NEWCOMER_SUBSCRIPTIONS = 4
NEWCOMER_PAYLOAD = 8192

#: Where a server is told of an account; in the system account alone.
UPDATE_ACCOUNT = "$SYS.REQ.CLAIMS.UPDATE"

_READ_LOG = ("STREAM.INFO", "STREAM.MSG.GET")
_MAKE_LOG = "STREAM.CREATE"


def shared_logs(subjects: Subjects) -> Shared:
    """Return what the account of the logs offers to the mesh's: to read both logs, and to hear entries live.

    Nothing goes the other way, and no subject by which a log is written to may ever be among the services:
    the answer to one service is delivered to whatever subject whoever asked has named, and that may be
    another service.
    """
    streams = (subjects.policy_stream, subjects.trust_stream)
    reading = tuple(subject for stream in streams for subject in _log_api(stream, *_READ_LOG))
    return Shared(
        services={subject: subjects.log_api(subject) for subject in reading},
        streams=(subjects.revision, subjects.trust),
    )


def agent_permissions(subjects: Subjects, service: ServiceName, instance: str) -> Permissions:
    """Return what the agent of one instance may do: speak as this instance of this service only."""
    root, me = subjects.root, token(instance, "instance")
    where = f"{service.namespace}.{service.name}.{me}"
    return Permissions(
        publish=(
            subjects.member(service, me),
            subjects.ack(service, me),
            subjects.dry_report(service, me),
            subjects.limits(service, me),
            f"{root}.evidence.*.*.{me}",
            f"{root}.telemetry.*.{where}",
            f"{root}.who.*.*",
            f"{root}.relay.*",
            f"{root}.relay.*.*",
            f"{root}.session.*",
            f"{root}.reply.*.*.{me}",
            # Answers to what came with a reply subject: of a request, of an instance, of a command.
            f"{root}.reply.*.*.*.{me}",
            f"{root}.inbox.*.*.*.{me}",
            f"{root}.inbox.*.*.*.*.{me}",
            subjects.renew,
            *shared_logs(subjects).services.values(),
        ),
        subscribe=(
            f"{subjects.inbox_prefix(me)}.>",
            f"{root}.reply.{me}.>",
            subjects.relay(me),
            f"{subjects.relay(me)}.*",
            subjects.session(me),
            f"{subjects.gone_prefix(me)}*",
            subjects.who(service),
            subjects.all_members,
            subjects.roll_call,
            subjects.revision,
            subjects.dry_run,
            subjects.trust,
            subjects.drill,
            subjects.limits(service),
            # Whom it calls is known to nobody before it does.
            f"{root}.evidence.*.*.*",
        ),
        subscriptions=AGENT_SUBSCRIPTIONS,
    )


def newcomer_permissions(subjects: Subjects, token_id: str) -> Permissions:
    """Return what the holder of a join token may do: ask to be enrolled, and hear the answer."""
    return Permissions(
        (subjects.enrol,),
        (f"{subjects.role_inbox('join', token_id)}.>",),
        subscriptions=NEWCOMER_SUBSCRIPTIONS,
        payload=NEWCOMER_PAYLOAD,
    )


def authority_permissions(subjects: Subjects, name: str) -> Permissions:
    """Return what the authority may do: answer at its two desks, and hear who is there.

    It follows and mends the logs by another login.
    """
    return Permissions(
        publish=(f"{subjects.root}.inbox.>",),
        subscribe=(
            subjects.enrol,
            subjects.renew,
            subjects.all_members,
            subjects.attendance,
            subjects.shut_out,
            f"{subjects.role_inbox('authority', name)}.>",
        ),
    )


def accounts_permissions(subjects: Subjects, name: str, accounts: Iterable[str]) -> Permissions:
    """Return what the authority may do in the server's system account: tell it anew of these accounts."""
    lookups = (account_lookup(account) for account in accounts)
    return Permissions(
        publish=(UPDATE_ACCOUNT, *lookups),
        subscribe=(f"{subjects.role_inbox('authority', name)}.>",),
    )


def writer_permissions(subjects: Subjects, role: str, name: str) -> Permissions:
    """Return what operators and the authority may do in the account of the logs: read, write, make them."""
    streams = (subjects.policy_stream, subjects.trust_stream)
    return Permissions(
        publish=(
            subjects.revision,
            subjects.trust,
            *(subject for stream in streams for subject in _log_api(stream, *_READ_LOG, _MAKE_LOG)),
        ),
        subscribe=(subjects.revision, subjects.trust, f"{subjects.role_inbox(role, name)}.>"),
    )


def observer_permissions(subjects: Subjects, name: str, *, role: str = "observer") -> Permissions:
    """Return what who only looks may do: ask who is there, read both logs, hear telemetry."""
    return Permissions(
        publish=(subjects.roll_call, subjects.attendance, *shared_logs(subjects).services.values()),
        subscribe=(
            f"{subjects.role_inbox(role, name)}.>",
            subjects.signals(),
            subjects.acks,
            subjects.revision,
            subjects.all_members,
        ),
    )


def operator_permissions(subjects: Subjects, name: str) -> Permissions:
    """Return what an operator may do: what an observer may, try revisions out, order drills.

    Revisions and revocations are published by another login.
    """
    looking = observer_permissions(subjects, name, role="operator")
    return Permissions(
        (*looking.publish, subjects.dry_run, subjects.drill, subjects.shut_out),
        (*looking.subscribe, subjects.dry_reports),
    )


def account_lookup(account: str) -> str:
    """Return where each server says what it knows of an account."""
    return f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"


def _log_api(stream: str, *verbs: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.{verb}.{stream}" for verb in verbs)

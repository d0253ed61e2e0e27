"""The bus: the server in use, the way to it, and the two logs that it keeps."""

from __future__ import annotations

from busmesh.bus.serverfacts import ServerFacts
from busmesh.identity.alarms import DAY_S
from busmesh.operator.diagnosis.verdict import Check, ok, warning
from busmesh.operator.history import History
from busmesh.operator.wording import counted, lasting

#: The mesh makes the bus's certificate anew when half of its year is over, if the server is started then.
CERTIFICATE_S = 30 * DAY_S


def check_server(server: ServerFacts, round_trip: float, now: float) -> list[Check]:
    """Look at the server that took the connection; ``round_trip`` in seconds."""
    version = f" (nats-server {server.version})" if server.version else ""
    found = [ok("bus", f"{server.address} answers in {round_trip * 1000:.2f} ms{version}")]
    if server.asks_for_login:
        found.append(ok("bus", "it is locked: it asks for a login"))
    else:
        lock = "lock it: `busmesh bus config` writes its configuration, and `busmesh up` locks its own"
        found.append(warning("bus", "it asks nobody for a login: whoever reaches it may speak on it", lock))
    if server.encrypted:
        found.append(_check_certificate(server, now))
    elif server.on_loopback:
        found.append(ok("bus", "the way to it does not leave this machine"))
    else:
        text = "the way to it is not encrypted: who listens there sees who talks to whom"
        found.append(warning("bus", text, "busmesh bus config --tls --host NAME, and tls:// in its URL"))
    return found


def _check_certificate(server: ServerFacts, now: float) -> Check:
    if server.certificate_ends is None:
        return ok("bus", "the way to it is encrypted")
    left = server.certificate_ends - now
    if left > CERTIFICATE_S:
        return ok("bus", f"the way to it is encrypted, by a certificate that is good for {lasting(left)}")
    again = "`busmesh up --tls` and `busmesh bus config --tls` make another; start the server again with it"
    return warning("bus", f"the certificate of the bus ends in {lasting(left)}", again)


def check_trust_log(version: int, revocations: int) -> Check:
    return ok(
        "logs",
        f"the trust log can be read: trust bundle {version},"
        f" {counted(revocations, 'revocation', 'revocations')}",
    )


def check_policy_log(history: History) -> Check:
    """Look at the policy log, whose entries that count for nothing only cost room, until there is none."""
    text = f"the policy log can be read: revision {history.current.number}"
    if not history.passed:
        return ok("logs", text)
    last = history.passed[-1]
    passed = counted(len(history.passed), "entry counts", "entries count")
    return warning(
        "logs",
        f"{text}; {passed} for nothing, the last of them at {last.sequence}: {last.reason}",
        "who may append there? busmesh policy history shows what counts",
    )

"""All decoders, and what else in the package reads bytes: from a disk, from this machine, or not at all."""

from __future__ import annotations

from tests.decoders.control import CONTROL
from tests.decoders.identities import IDENTITIES
from tests.decoders.plain import PLAIN
from tests.decoders.wires import WIRES

DECODERS = [*WIRES, *CONTROL, *IDENTITIES, *PLAIN]

#: Readers of what does not come over the bus, or comes within what a decoder above is tried with.
ELSEWHERE: dict[str, str] = {
    "agent.pipe:Pipe.receive": "from another process of the same agent",
    "agent.setup:Setup.process": "from another process of the same agent",
    "agent.settings:load_definition": "a file of the agent's operator",
    "authority.logins:Issued.parse": "a private file",
    "cli.authz:_claims": "an argument of the command",
    "cli.call:_call": "a response of the agent beside the command",
    "cli.callagent:_page": "a page of the agent beside the command",
    "decide.balance.ring:positions": "a digest of this process's own",
    "demo.ledger:read_hops": "a response of the demo's own applications",
    "demo.processes:Process._take": "a line of a process that the demo has started",
    "demo.processes:_plain": "a line of a process that the demo has started",
    "demo.shop:Caller.call": "a response of the demo's own applications",
    "identity.enrol:bus_login": "a certificate that was issued a moment ago",
    "identity.files:read_pair": "a private file",
    "identity.jointoken:JoinToken.parse": "a private file",
    "identity.logfile:LogFile.read": "a private file, whose entries are opened like those of the bus",
    "identity.store:_json": "a private file",
    "identity.verify:Verifier.known": "a digest of this process's own",
    "policy.actions:HttpBody.content": "part of a policy revision",
    "policy.actions:_base64": "part of a policy revision",
    "policy.authentication:_jwks": "part of a policy revision",
    "policy.route:VirtualServiceSpec.as_route": "part of a policy revision",
    "relay.application.parsing:ResponseParser.feed": "from the application; tests/proofs/proof_fuzzing.py",
    "relay.inbound.inbound:Inbound.on_relay": "hands on to decoders of frames; tests/relay/test_inbound.py",
    "relay.session.opening:open_session": "hands on to decoders of handshakes",
    "relay.client.parsing:RequestParser.feed": "from clients; see tests/proofs/proof_fuzzing.py",
    "relay.tries.tries:Tries.on_reply": "hands on to decoders of frames; tests/relay/test_hostile_streams.py",
}
_FRAMES = ("header of a frame", "sealed frame")
#: What the bus calls, with the decoders that try what it is given.
HANDLERS: dict[str, tuple[str, ...]] = {
    "agent.control:Control._on_published": ("policy revision",),
    "agent.dryrun:DryRuns.on_dry_run": ("dry run",),
    "agent.evidence:SharedEvidence._on_report": ("report of evidence",),
    "agent.identity:Renewals.on_order": ("drill",),
    "agent.limits:LimitSharing._on_report": ("report of limits",),
    "agent.logkeeper:LogKeeper._on_published": ("policy revision",),
    "agent.members:Members._on_answer": ("announcement, as agents hear it", "headers of a message"),
    "agent.members:Members._on_member": ("announcement, as agents hear it",),
    "agent.namesake:Namesake.on_message": ("announcement, as the instance itself hears it",),
    "agent.registrar:Registrar.on_question": (),
    "authority.attendance:Attendance.on_question": (),
    "authority.hearing:Hearing.on_message": ("announcement, as an authority hears it",),
    "authority.desk:Desk.on_message": ("enrolment request", "renewal request"),
    "authority.shutout:ShutOuts.on_question": ("question about a revocation",),
    "bus.bus:Bus._on_answer": ("headers of a message",),
    "bus.handover:Handover._holder": (),
    "bus.handover:Handover._recorder": (),
    "demo.heard:Heard.hear": ("metrics, as the demo hears them",),
    "operator.acknowledgements:Acknowledgements.hear": ("acknowledgement",),
    "operator.dryrun:Reports.hear": ("report of a dry run",),
    "operator.listen:Listener.hear": ("telemetry on a terminal", "telemetry as YAML"),
    "operator.numbers:Numbers.hear": ("metrics, as operators hear them",),
    "relay.session.accepting:Acceptor.on_message": ("handshake, as an instance gets it",),
    "relay.inbound.inbound:Inbound.on_gone": ("headers of a message",),
    "relay.inbound.inbound:Inbound.on_relay": (
        *_FRAMES,
        "request",
        "opening",
        "probe",
        "credit",
        "part of a body",
    ),
    "relay.tries.tries:Tries.on_reply": (
        *_FRAMES,
        "response",
        "refusal",
        "interim response",
        "result of a probe",
    ),
    "trust.follower:TrustFollower._on_entry": (
        "entry of the trust log: a bundle",
        "entry of the trust log: a revocation by an operator",
        "entry of the trust log: a revocation by the root",
    ),
}

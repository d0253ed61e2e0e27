"""Publishing: from documents to one signed revision in the log, and to what the agents make of it.

In order: see who is there and what is published, draft the revision, check it against both, sign, append.
Whatever is refused is refused before anything has changed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from busmesh.bus.bus import Bus
from busmesh.bus.policylog import LogUnavailable, PolicyLog
from busmesh.errors import BusmeshError, IdentityError
from busmesh.identity.revisions import open_revision, seal_revision
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects
from busmesh.operator.acknowledgements import Acknowledgements, listening
from busmesh.operator.history import History, read_history
from busmesh.operator.rollcall import RollCall, call_roll
from busmesh.operator.status import AgentStatus, Sync, statuses
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.revision import Revision, propose
from busmesh.policy.validate import validate_bundle
from busmesh.yamlfile import Finding, refuse_errors

DANGLING = "BM2103"
#: Agents named in an error.
_NAMED = 3
_EXPIRED = "`busmesh up`, on the machine of the authority, issues a new one"


class NewerElsewhere(BusmeshError):
    """Agents hold revisions that the log does not have: it was lost, and must not start again at 1."""


@dataclass(frozen=True, slots=True)
class View:
    """The mesh at one moment: who is there and what is published."""

    roll: RollCall
    history: History


@dataclass(frozen=True, slots=True)
class Draft:
    """A revision that may be published.

    Attributes:
        revision: None if everything is published as it is.
        findings: doubts about it; errors would have refused it.
    """

    revision: Revision | None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a published revision.

    Attributes:
        revision: as published.
        statuses: of every agent that was there before; empty if nobody waited for them.
        waited: seconds from sending the revision to the last acknowledgement, or until patience ended.
        dropped: acknowledgements that proved nothing.
    """

    revision: Revision
    statuses: tuple[AgentStatus, ...] = ()
    waited: float = 0.0
    dropped: int = 0

    @property
    def trouble(self) -> tuple[AgentStatus, ...]:
        """Agents that do not have the revision in force, as far as they were waited for."""
        return tuple(status for status in self.statuses if status.state is not Sync.SYNCED)


async def look(bus: Bus, subjects: Subjects, verifier: Verifier) -> View:
    """See who is there, then what is published: in this order no agent can seem ahead of the log.

    Raises:
        LogUnavailable: no JetStream; the hint says what the agents go on with.
    """
    roll = await call_roll(bus, subjects, verifier)
    try:
        return View(roll, await read_history(PolicyLog(bus, subjects), verifier))
    except LogUnavailable as error:
        held = max((member.revision for member in roll.members), default=0)
        kept = f"\n{len(roll.members)} agents go on with revision {held} at most" if held else ""
        raise LogUnavailable(error.message, code=error.code, hint=error.hint + kept) from None


def draft_revision(
    view: View,
    put: Sequence[Document],
    remove: Collection[DocumentKey] = (),
    *,
    author: str,
    reason: str,
    now: float,
    allow_dangling: bool = False,
    ignore_newer: bool = False,
) -> Draft:
    """Return the revision that puts and removes documents, checked against what is there.

    Args:
        view: the mesh as it is.
        put: new documents and replacements; what is published just so already is left out of the revision.
        remove: keys of documents to end.
        author: the operator's name.
        reason: a word for the history.
        now: unix seconds.
        allow_dangling: let a Route send to a subset that no Destination declares and no instance carries.
        ignore_newer: publish although agents say that they hold later revisions than the log.

    Raises:
        NewerElsewhere: agents do (code BM2301).
        InvalidDocuments: with every finding.
        RevisionRefused: it removes what is not there, contradicts itself or is too large.
    """
    if not ignore_newer:
        refuse_newer(view)
    current = view.history.current
    findings = validate_bundle(put, current, view.roll.live(), remove=remove)
    findings = [_dangling(finding, allow_dangling) for finding in findings]
    refuse_errors(findings)
    changed = [document for document in put if current.documents.get(document.key) != document]
    if not changed and not remove:
        return Draft(None, tuple(findings))
    revision = propose(current, changed, remove, author=author, reason=reason, now=now)
    return Draft(revision, tuple(findings))


def refuse_newer(view: View) -> None:
    """Refuse to go on from a log that lost revisions which agents still have.

    Raises:
        NewerElsewhere: it did (code BM2301).
    """
    last = view.history.current.number
    ahead = [member for member in view.roll.members if member.revision > last]
    if ahead:
        furthest = max(member.revision for member in ahead)
        named = ", ".join(member.instance for member in ahead[:_NAMED])
        more = f" and {len(ahead) - _NAMED} more" if len(ahead) > _NAMED else ""
        raise NewerElsewhere(
            f"the policy log ends at revision {last}, but agents hold {furthest} ({named}{more})",
            code="BM2301",
            hint="the bus lost its store; agents give the log back within 30 s: look with "
            "`busmesh policy status`, then publish again",
        )


def _dangling(finding: Finding, allowed: bool) -> Finding:
    if finding.code != DANGLING or finding.level != "error":
        return finding
    if allowed:
        return replace(finding, level="warning")
    hint = f"{finding.hint}, or add --allow-dangling" if finding.hint else "add --allow-dangling"
    return replace(finding, hint=hint)


class Publisher:
    """Publishes as one operator.

    Args:
        bus: connected.
        subjects: of the mesh.
        verifier: holds its roots.
        svid: the operator's.
        logs: the connection to write by, if it is another one; on a locked bus it is.
    """

    def __init__(
        self, bus: Bus, subjects: Subjects, verifier: Verifier, svid: Svid, *, logs: Bus | None = None
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._verifier = verifier
        self._svid = svid
        self._log = PolicyLog(logs if logs is not None else bus, subjects)

    def __repr__(self) -> str:
        return f"<Publisher {self._svid.id}>"

    @property
    def author(self) -> str:
        return self._svid.id.operator

    async def publish(self, view: View, revision: Revision, *, wait: float) -> Outcome:
        """Sign and append ``revision``, and wait until every agent has said what it makes of it.

        Args:
            view: what the revision was drafted on.
            revision: the draft's.
            wait: seconds to wait for acknowledgements at most; 0 does not wait.

        Raises:
            IdentityError: no agent would believe this operator: not one, expired, or a clock that is wrong.
            RevisionConflict: somebody else published first; nothing changed.
            LogUnavailable: JetStream did not store it.
        """
        entry = self._sealed(view, revision)
        members = view.roll.members
        await self._log.ensure()
        async with listening(self._bus, self._subjects, self._verifier, revision, members) as heard:
            sent = time.monotonic()
            await self._log.append(entry, view.history.sequence + 1)
            if wait <= 0:
                return Outcome(revision)
            await heard.wait(wait)
            waited = time.monotonic() - sent
        found = await self._statuses(view, revision, heard)
        return Outcome(revision, found, waited, heard.dropped)

    def _sealed(self, view: View, revision: Revision) -> bytes:
        """Sign, and look at the result as every agent will."""
        made = (revision.time_ms + 0.5) / 1000  # the half keeps a float from rounding to the one before
        entry = seal_revision(self._svid, revision, made)
        try:
            open_revision(entry, self._verifier, time.time(), previous_ms=view.history.last_ms)
        except IdentityError as error:
            hint = _EXPIRED if error.code == "BM4006" else error.hint
            message = f"no agent would take this revision: {error.message}"
            raise IdentityError(message, code=error.code, hint=hint) from None
        return entry

    async def _statuses(
        self, view: View, revision: Revision, heard: Acknowledgements
    ) -> tuple[AgentStatus, ...]:
        """Ask again those who said nothing: the message may have been lost, or the agent."""
        members = view.roll.members
        present = members
        if not heard.complete:
            present = (await call_roll(self._bus, self._subjects, self._verifier)).members
        before = {(member.name, member.instance) for member in members}
        told = [heard.told(member) for member in present if (member.name, member.instance) in before]
        return tuple(statuses(told, view.history.followed_by(revision), time.time(), expected=members))

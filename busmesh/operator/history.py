"""The policy log as an operator reads it: every revision proven and folded, and what stands after the last.

Anybody with a login to the bus can append bytes to the log's subject. What no operator has signed, or what
does not follow from the set before it, is passed over and counted: it may cost space, never the mesh's
ability to take the next revision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from busmesh.bus.policylog import PolicyLog
from busmesh.errors import IdentityError, InvalidDocument, NotFound, RemoteProtocolError
from busmesh.identity.revisions import open_revision
from busmesh.identity.verify import Verifier
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.history import rebuild, revert
from busmesh.policy.revision import EMPTY, PolicySet, Revision, RevisionRefused, fold


@dataclass(frozen=True, slots=True)
class Passed:
    """An entry of the log that counts for nothing."""

    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class History:
    """All of the log.

    Attributes:
        revisions: in order, the first of number 1.
        current: the set after the last of them.
        sequence: of the log's last entry; the next one is appended after it.
        passed: entries that count for nothing.
    """

    revisions: tuple[Revision, ...] = field(default=(), repr=False)
    current: PolicySet = EMPTY
    sequence: int = 0
    passed: tuple[Passed, ...] = ()

    @property
    def last_ms(self) -> int:
        """When the last revision was made; 0 if there is none."""
        return self.revisions[-1].time_ms if self.revisions else 0

    def time_of(self, number: int) -> float | None:
        """Return when revision ``number`` was made, in unix seconds; None if the log has no such revision."""
        if not 1 <= number <= len(self.revisions):
            return None
        return self.revisions[number - 1].time_ms / 1000

    def followed_by(self, revision: Revision) -> History:
        """Return the history after ``revision`` was appended.

        Raises:
            RevisionRefused: it does not follow.
        """
        after = fold(self.current, revision)
        return History((*self.revisions, revision), after, self.sequence + 1, self.passed)

    def at(self, number: int) -> PolicySet:
        """Return the set after revision ``number``.

        Raises:
            NotFound: there is no such revision (code BM2208).
        """
        return rebuild(self.revisions, number)

    def way_back(self, number: int) -> tuple[list[Document], list[DocumentKey]]:
        """Return what a new revision must put and remove so that the set is that after ``number`` again.

        Raises:
            NotFound: there is no such revision (code BM2208).
        """
        return revert(self.revisions, number)

    def document(self, key: DocumentKey) -> Document:
        """Return a published document.

        Raises:
            NotFound: none has this key (code BM2304).
        """
        found = self.current.documents.get(key)
        if found is None:
            raise NotFound(f"{key} is not published", code="BM2304", hint="busmesh policy list")
        return found


async def read_history(policy_log: PolicyLog, verifier: Verifier) -> History:
    """Read the log from its beginning; of what counts for nothing no more is kept than a line.

    Raises:
        LogUnavailable: no JetStream, or it stopped answering.
        InvalidDocument: an operator published something that this busmesh does not know (code BM2207).
    """
    folding, last = _Folding(verifier, time.time()), await policy_log.last()
    async for batch in policy_log.batches(0, last):
        for sequence, entry in batch:
            folding.take(sequence, entry)
    return folding.history()


class _Folding:
    """What the entries come to so far."""

    def __init__(self, verifier: Verifier, now: float) -> None:
        self._verifier = verifier
        self._now = now
        self._revisions: list[Revision] = []
        self._passed: list[Passed] = []
        self._current, self._sequence = EMPTY, 0

    def history(self) -> History:
        return History(tuple(self._revisions), self._current, self._sequence, tuple(self._passed))

    def take(self, sequence: int, entry: bytes) -> None:
        self._sequence = sequence
        last_ms = self._revisions[-1].time_ms if self._revisions else 0
        try:
            revision, _ = open_revision(entry, self._verifier, self._now, previous_ms=last_ms)
            self._current = fold(self._current, revision)
        except (RemoteProtocolError, IdentityError, RevisionRefused) as error:
            self._passed.append(Passed(sequence, str(error)))
        except InvalidDocument as error:
            raise InvalidDocument(
                f"entry {sequence} of the policy log cannot be read: {error.message}",
                code=error.code,
                hint="a newer busmesh has written it: upgrade this one",
            ) from None
        else:
            self._revisions.append(revision)

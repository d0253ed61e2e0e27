"""Revisions: the only way in which a policy set changes.

A revision names the set it was made for by that set's digest, and the set that it leads to. So an agent
knows that it holds what the operator meant, not just as many revisions; two operators who publish at once
cannot both win; and what does not fit is refused whole, the set before it staying as it is.
Signing and storing are done elsewhere, on the plain form.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from busmesh.errors import BusmeshError, InvalidDocument
from busmesh.policy.documents import Document, DocumentKey, Kind
from busmesh.policy.fields import Many, Model
from busmesh.policy.plain import canonical, check_plain, digest
from busmesh.yamlfile import shorten

FORMAT = 1
#: Room for some 500 documents, and half of what one NATS message carries by default.
MAX_REVISION = 512 * 1024
MAX_REASON = 1024

Cause = Literal["gap", "stale", "digest", "unknown document", "contradiction", "too large"]
_CODES: Mapping[Cause, str] = {
    "gap": "BM2201",
    "stale": "BM2202",
    "digest": "BM2203",
    "unknown document": "BM2204",
    "contradiction": "BM2205",
    "too large": "BM2206",
}
_HINTS: Mapping[Cause, str] = {
    "gap": "read the log from the revision after the one that is held",
    "stale": "look at what is published now, then publish again",
    "digest": "read the whole log again",
}


class RevisionRefused(BusmeshError):
    """A revision does not follow from the set that it was to change; nothing changed.

    Attributes:
        cause: "gap": revisions before it are missing; "stale": another came first; "digest": it was made
            for, or leads to, another set; "unknown document": it removes what is not there;
            "contradiction": it puts or removes something twice, or nothing; "too large".
    """

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message, code=_CODES[cause], hint=_HINTS.get(cause, ""))
        self.cause = cause


@dataclass(frozen=True, slots=True)
class PolicySet:
    """What stands after a number of revisions. Compare sets by ``digest``.

    Attributes:
        number: of the revision that led here; 0 for the empty set at the beginning.
        documents: by key, in the order of the keys.
        put_in: the revision that put each document as it is, where that is known.
        digest: SHA-256 over the canonical JSON of all documents in that order.
    """

    number: int = 0
    documents: Mapping[DocumentKey, Document] = field(default_factory=dict)
    put_in: Mapping[DocumentKey, int] = field(default_factory=dict, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        ordered = dict(sorted(self.documents.items()))
        # The same text as canonical() of the list of documents, without writing each one anew.
        text = "[" + ",".join(document.text for document in ordered.values()) + "]"
        object.__setattr__(self, "documents", MappingProxyType(ordered))
        object.__setattr__(self, "digest", digest(text))

    def __repr__(self) -> str:
        return f"<PolicySet number={self.number} documents={len(self.documents)} digest={self.digest[:12]}>"


EMPTY = PolicySet()


@dataclass(frozen=True, slots=True)
class Revision:
    """One atomic change.

    Attributes:
        number: one more than that of the set it changes.
        author: the operator's name.
        time_ms: when it was made, milliseconds since 1970 by the operator's clock; for people only.
        reason: what the operator said about it, perhaps nothing.
        put: documents that are new or replace those of the same key.
        remove: keys of documents that end.
        digest: of the set after it.
        previous: digest of the set before it.
    """

    number: int
    author: str
    time_ms: int
    reason: str
    put: tuple[Document, ...]
    remove: tuple[DocumentKey, ...]
    digest: str
    previous: str

    def to_plain(self) -> dict[str, Any]:
        """Return it as data for msgpack or JSON."""
        return {
            "format": FORMAT,
            "number": self.number,
            "author": self.author,
            "time_ms": self.time_ms,
            "reason": self.reason,
            "put": [document.plain for document in self.put],
            "remove": [list(key) for key in self.remove],
            "digest": self.digest,
            "previous": self.previous,
        }

    @classmethod
    def from_plain(cls, value: object) -> Revision:
        """Read a revision that came from the log or the disk.

        Raises:
            InvalidDocument: malformed, over 512 KiB, of another format, or with a document that this
                version of busmesh does not know.
        """
        plain = check_plain(value)
        if len(canonical(plain).encode()) > MAX_REVISION:
            raise InvalidDocument("the revision is larger than 512 KiB", code="BM2206")
        found = plain.get("format") if isinstance(plain, dict) else None
        if found != FORMAT:
            raise InvalidDocument(
                f"revision format {shorten(repr(found))} is not known, {FORMAT} is",
                code="BM2207",
                hint="upgrade this busmesh",
            )
        try:
            wire = _Wire.model_validate(plain)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidDocument(f"the revision's {where}: {first['msg']}", code="BM2207") from None
        file = f"revision {wire.number}"
        return cls(
            number=wire.number,
            author=wire.author,
            time_ms=wire.time_ms,
            reason=wire.reason,
            put=tuple(Document.from_plain(document, file=file) for document in wire.put),
            remove=tuple(DocumentKey(*key) for key in wire.remove),
            digest=wire.digest,
            previous=wire.previous,
        )


_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Key = Annotated[tuple[Kind, str, str], Field(strict=False)]


class _Wire(Model):
    """The plain form of a revision."""

    format: int
    number: int = Field(ge=1, lt=2**53)
    author: str = Field(min_length=1, max_length=128, pattern=r"^[^\t\r\n]*$")
    time_ms: int = Field(ge=0, lt=2**53)
    reason: str = Field(max_length=MAX_REASON)
    put: Many[Any]
    remove: Many[_Key]
    digest: _Digest
    previous: _Digest


def fold(current: PolicySet, revision: Revision) -> PolicySet:
    """Return the set that ``revision`` makes of ``current``.

    Raises:
        RevisionRefused: it does not follow, or does not lead where it says; ``current`` is untouched.
    """
    if revision.number > current.number + 1:
        raise RevisionRefused("gap", f"revision {revision.number} came after {current.number}")
    if revision.number <= current.number:
        message = f"revision {revision.number} came, {current.number} is held already"
        raise RevisionRefused("stale", message)
    if revision.previous != current.digest:
        raise RevisionRefused("digest", f"revision {revision.number} was made for another set")
    after = _changed(current, revision.put, revision.remove)
    if after.digest != revision.digest:
        raise RevisionRefused("digest", f"revision {revision.number} does not lead where it says")
    return after


def propose(
    current: PolicySet,
    put: Iterable[Document],
    remove: Iterable[DocumentKey],
    *,
    author: str,
    reason: str,
    now: float,
) -> Revision:
    """Make the revision that puts and removes documents on ``current``; it is not validated here.

    Args:
        current: the newest set that the operator knows.
        put: new documents and replacements.
        remove: keys of documents to end.
        author: the operator's name.
        reason: a word for the history.
        now: seconds since 1970.

    Raises:
        RevisionRefused: it contradicts itself, changes nothing, removes what is not there, or is too large.
        InvalidDocument: an author or a reason that cannot be written down.
    """
    put, remove = tuple(put), tuple(remove)
    if not put and not remove:
        raise RevisionRefused("contradiction", "there is nothing to put and nothing to remove")
    after = _changed(current, put, remove)
    revision = Revision(
        number=after.number,
        author=author,
        time_ms=int(now * 1000),
        reason=reason,
        put=put,
        remove=remove,
        digest=after.digest,
        previous=current.digest,
    )
    size = len(canonical(revision.to_plain()).encode())
    if size > MAX_REVISION:
        raise RevisionRefused("too large", f"the revision has {size} bytes, more than {MAX_REVISION}")
    return Revision.from_plain(revision.to_plain())


def _changed(current: PolicySet, put: Collection[Document], remove: Collection[DocumentKey]) -> PolicySet:
    keys = [*remove, *(document.key for document in put)]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RevisionRefused("contradiction", f"{twice} is put or removed twice")
    for key in remove:
        if key not in current.documents:
            raise RevisionRefused("unknown document", f"{key} is not published")
    documents = dict(current.documents)
    for key in remove:
        del documents[key]
    number = current.number + 1
    put_in = {key: made for key, made in current.put_in.items() if key in documents}
    return PolicySet(
        number,
        documents | {document.key: document for document in put},
        put_in | {document.key: number for document in put},
    )

"""A dry run in its envelope: a revision that agents hold against the one in force, and never put in force.

It is signed like a revision and for another purpose, so that neither can be taken for the other. It is never
stored: it ends by itself at the time that it names, whatever becomes of who began it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgpack

from busmesh.errors import IdentityError, InvalidDocument, RemoteProtocolError
from busmesh.identity.profile import CLOCK_SKEW_S
from busmesh.identity.revisions import MAX_ENTRY, check_author, check_scope
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verifier
from busmesh.members.versioned import unpack_nested
from busmesh.policy.revision import MAX_REVISION, Revision

PURPOSE = "policy.dryrun"
VERSION = 1
#: Seconds; one that lasts longer is refused.
MAX_DURATION_S = 3600.0
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class DryRun:
    """A trial of one revision.

    Attributes:
        id: 16 hex digits, different for each.
        ends_ms: unix milliseconds.
        revision: None to end it at once.
    """

    id: str
    ends_ms: int
    revision: Revision | None


def seal_dry_run(svid: Svid, dry_run: DryRun, now: float) -> bytes:
    """Return ``dry_run`` signed by an operator; ``now`` in unix seconds.

    Raises:
        IdentityError: ``svid`` is no operator's, or not the revision's author's (codes BM4301, BM4302).
        InvalidDocument: the revision has more than 512 KiB (BM2206).
    """
    revision = dry_run.revision
    if revision is not None:
        check_author(svid.id.operator, str(svid.id), revision)
    plain = None if revision is None else revision.to_plain()
    body: bytes = msgpack.packb([VERSION, dry_run.id, dry_run.ends_ms, plain])
    if len(body) > MAX_REVISION:
        raise InvalidDocument(f"the dry run has {len(body)} bytes, more than {MAX_REVISION}", code="BM2206")
    return seal_signed(svid, PURPOSE, body, now)


def open_dry_run(entry: bytes, verifier: Verifier, now: float) -> DryRun:
    """Return the dry run that ``entry`` holds, or refuse it.

    Args:
        entry: from the bus; believed in nothing.
        verifier: holds the roots of the mesh.
        now: unix seconds.

    Raises:
        RemoteProtocolError: too large, malformed or of another version (codes BM4101 to BM4103, BM4306).
        IdentityError: not signed by an operator of the mesh (BM4003 to BM4008, BM4301), not its author's
            (BM4302), or over, or too long (BM4307).
        InvalidDocument: it holds no revision that this version of busmesh knows.
    """
    signed = open_signed(entry, PURPOSE, verifier, now, max_age=MAX_DURATION_S, max_size=MAX_ENTRY)
    signer = signed.signer.id
    if not signer.operator:  # before anything nested is decoded
        raise IdentityError(f"{signer} asked for a dry run and is no operator", code="BM4301")
    try:
        fields = unpack_nested(signed.body)
    except ValueError:
        raise _unreadable() from None
    if not (isinstance(fields, list) and len(fields) == 4 and fields[0] == VERSION):
        raise _unreadable()
    _, name, ends_ms, plain = fields
    if not (isinstance(name, str) and _ID.fullmatch(name) and type(ends_ms) is int):
        raise _unreadable()
    if ends_ms < now * 1000 or ends_ms > signed.time_ms + (MAX_DURATION_S + CLOCK_SKEW_S) * 1000:
        raise IdentityError("a dry run that is over, or lasts for more than an hour", code="BM4307")
    revision = None if plain is None else Revision.from_plain(plain)
    if revision is not None:
        check_author(signer.operator, str(signer), revision)
        check_scope(signed.signer, revision)
    return DryRun(name, ends_ms, revision)


def _unreadable() -> RemoteProtocolError:
    return RemoteProtocolError("a dry run that cannot be read", code="BM4306")

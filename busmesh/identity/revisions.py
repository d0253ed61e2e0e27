"""A policy revision in its envelope: so it travels on the bus, stands in the log and lies on each disk.

Only an operator of the mesh may sign one, and who signed is who the revision says wrote it. The signer's
certificate counts as of the time of signing, because the log outlives the certificates of its authors.
"""

from __future__ import annotations

from typing import Any

import msgpack

from busmesh.errors import IdentityError, InvalidDocument, RemoteProtocolError
from busmesh.identity.profile import CLOCK_SKEW_S, MAX_CERTIFICATE
from busmesh.identity.signed import open_signed, seal_signed
from busmesh.identity.svid import Svid
from busmesh.identity.verify import Verified, Verifier
from busmesh.members.versioned import unpack_nested
from busmesh.policy.revision import MAX_REVISION, Revision
from busmesh.policy.validate import addressed

PURPOSE = "policy.revision"
VERSION = 1
#: The revision, and room for certificate, time, signature and the lengths of all of them.
MAX_ENTRY = MAX_REVISION + MAX_CERTIFICATE + 256


def seal_revision(svid: Svid, revision: Revision, now: float) -> bytes:
    """Return ``revision`` signed by the operator ``svid``: an entry of the log.

    Args:
        svid: of the operator who is the revision's author.
        revision: made at ``now``.
        now: unix seconds, the same that ``propose`` was given.

    Raises:
        IdentityError: ``svid`` is no operator's, or not its author's (codes BM4301, BM4302).
        InvalidDocument: it has more than 512 KiB in its binary form (BM2206).
        ValueError: it was made at another time.
    """
    check_author(svid.id.operator, str(svid.id), revision)
    if int(now * 1000) != revision.time_ms:
        raise ValueError(f"{now} is not when revision {revision.number} was made")
    body: bytes = msgpack.packb([VERSION, revision.to_plain()])
    if len(body) > MAX_REVISION:
        raise InvalidDocument(
            f"revision {revision.number} has {len(body)} bytes, more than {MAX_REVISION}",
            code="BM2206",
            hint="publish the documents in several revisions",
        )
    return seal_signed(svid, PURPOSE, body, now)


def open_revision(
    entry: bytes, verifier: Verifier, now: float, *, previous_ms: int = 0
) -> tuple[Revision, str]:
    """Return the revision that ``entry`` holds and the SPIFFE ID of its author, or refuse it.

    Whether it follows from the set that is held is for ``fold`` to say.

    Args:
        entry: from the bus, the log or the disk; believed in nothing.
        verifier: holds the roots of the mesh.
        now: unix seconds.
        previous_ms: ``time_ms`` of the revision before it. One that is older by more than the skew of two
            clocks is refused: with an expired key that was stolen, dates can only be set back.

    Raises:
        RemoteProtocolError: too large, malformed or of another version (codes BM4101 to BM4103, BM4304).
        IdentityError: not signed by an operator of the mesh (BM4003 to BM4008, BM4301), author or time are
            not the signer's (BM4302, BM4303), older than the one before (BM4305), or by somebody who counted
            no more (BM4306).
        InvalidDocument: signed by an operator, but no revision that this version of busmesh knows.
    """
    signed = open_signed(entry, PURPOSE, verifier, now, at="signing", max_size=MAX_ENTRY)
    signer = signed.signer.id
    if not signer.operator:  # before anything nested is decoded
        raise _not_an_operator(str(signer))
    revision = Revision.from_plain(_unpack(signed.body))
    check_author(signer.operator, str(signer), revision)
    check_scope(signed.signer, revision)
    if revision.time_ms != signed.time_ms:
        raise IdentityError(f"revision {revision.number} was not made when it was signed", code="BM4303")
    _check_reach(signed.signer, revision)
    if revision.time_ms < previous_ms - CLOCK_SKEW_S * 1000:
        behind = (previous_ms - revision.time_ms) / 1000
        raise IdentityError(
            f"revision {revision.number} is dated {behind:.0f} s before the one that it follows",
            code="BM4305",
            hint=f"compare the clock of operator {revision.author} with that of the operator before",
        )
    return revision, str(signer)


def _check_reach(signer: Verified, revision: Revision) -> None:
    """Refuse what a signer wrote after they ceased to count, and a past that did not lead where it led."""
    if signer.through is None:
        return
    beyond = revision.number > signer.through
    elsewhere = revision.number == signer.through and signer.digest not in ("", revision.digest)
    if beyond or elsewhere:
        raise IdentityError(
            f"revision {revision.number} is by {signer.id}, who counts up to revision {signer.through} only",
            code="BM4306",
            hint="they were revoked, or the root behind them was retired: sign with a key issued since",
        )


def _unpack(body: bytes) -> Any:
    try:
        fields = unpack_nested(body)
    except ValueError as error:
        raise _unreadable(type(error).__name__) from None
    if not (isinstance(fields, list) and len(fields) == 2):
        raise _unreadable("not a pair of version and fields")
    if fields[0] != VERSION:
        raise RemoteProtocolError(
            f"a revision of version {fields[0]!r:.40}, and this is version {VERSION}",
            code="BM4102",
            hint="upgrade this busmesh",
        )
    return fields[1]


def check_author(operator: str, spiffe_id: str, revision: Revision) -> None:
    if not operator:
        raise _not_an_operator(spiffe_id)
    if revision.author != operator:
        raise IdentityError(
            f"revision {revision.number} says that {revision.author} made it, and {spiffe_id} signed it",
            code="BM4302",
        )


def check_scope(signer: Verified, revision: Revision) -> None:
    """Check that all that ``revision`` changes is the signer's to change.

    Raises:
        IdentityError: something is not (code BM4308).
    """
    scope = signer.scope
    if scope.everything:
        return
    changes = [(each.key, [service.namespace for service, _ in addressed(each)]) for each in revision.put] + [
        (key, []) for key in revision.remove
    ]
    for key, others in changes:
        if outside := scope.outside(key.kind, (key.namespace, *others)):
            raise IdentityError(
                f"{signer.id} may not change {key.kind}/{key.namespace}/{key.name}: {outside} is not in its"
                f" scope, {scope}",
                code="BM4308",
                hint="busmesh identity issue NAME --namespace NAMESPACE --kind KIND, where the root is",
            )


def _not_an_operator(spiffe_id: str) -> IdentityError:
    return IdentityError(
        f"{spiffe_id} signed a revision and is no operator",
        code="BM4301",
        hint="only operators publish policies: sign with the key of one, --as NAME",
    )


def _unreadable(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a revision that cannot be read: {why}", code="BM4304")

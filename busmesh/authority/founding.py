"""The founding of a mesh: what its home must hold before anybody can join, made where it is missing."""

from __future__ import annotations

import contextlib
import getpass
import logging
import re

from busmesh.errors import BusmeshError, NotFound, UsageError
from busmesh.identity import files
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.jointoken import Grant, JoinToken
from busmesh.identity.revocation import Revocations
from busmesh.identity.store import Home
from busmesh.identity.trust import TrustBundle
from busmesh.identity.trustlog import TrustState
from busmesh.identity.verify import Verifier
from busmesh.names import SpiffeId, token
from busmesh.trust.store import TrustStore

log = logging.getLogger(__name__)

DEFAULT_OPERATOR = "admin"


def operator_name() -> str:
    """Return the name of who runs this process as an operator's name, ``admin`` if it makes none."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may run as a user whom nobody has named
        return DEFAULT_OPERATOR
    name = re.sub(r"[^a-z0-9]+", "-", user.lower())[:63].strip("-")
    return name or DEFAULT_OPERATOR


def found(home: Home, mesh: str, operator: str, now: float) -> None:
    """Make what is missing in ``home``: root, trust bundle, an operator's identity, a join token.

    What is there stays; only operators' certificates past half of their life are issued again.

    Args:
        home: made with mode 0700 if missing.
        mesh: the mesh's name.
        operator: who signs policies, if nobody has an identity here yet.
        now: unix seconds.

    Raises:
        UsageError: the home is that of another mesh (code BM4601), or of a member of this one, whose root is
            elsewhere (BM4602), or one whose root the mesh has replaced (BM4603).
        IdentityError: something in it cannot be trusted or read.
        InvalidName: ``mesh`` or ``operator`` is not a name.
    """
    token(mesh, "mesh")
    token(operator, "operator")
    files.private_folder(home.path)
    _check_mesh(home, mesh)
    ca = _root(home, mesh, now)
    if not home.operators():
        home.save_operator(ca.issue_svid(SpiffeId(mesh, operator=operator), now))
        log.info("operator %s: made an identity", operator)
    renew_operators(home, ca, now, revocations_of(home, mesh, now))
    _join_token(home, mesh, now)


def renew_operators(home: Home, ca: CertificateAuthority, now: float, revocations: Revocations) -> None:
    """Issue the next SVID of each operator in ``home`` who is past half of the present one's life.

    Not of one who was revoked: what is issued later would count.

    Raises:
        IdentityError: a stored one cannot be trusted or read.
    """
    for name in home.operators():
        svid = home.operator(name)
        hit = (svid.id, svid.certificate.serial_number, svid.not_before)
        if revocations.hitting(*hit) is None and now >= (svid.not_before + svid.not_after) / 2:
            home.save_operator(ca.issue_svid(SpiffeId(ca.mesh, operator=name), now))
            log.info("operator %s: renewed the identity", name)


def revocations_of(home: Home, mesh: str, now: float) -> Revocations:
    """Return the revocations that the home knows of, for who works there while no authority runs.

    Raises:
        IdentityError: something in the home cannot be trusted or read.
    """
    state = TrustState(Verifier(home.trust(mesh)))
    for entry in TrustStore(home.trust_log).read():
        with contextlib.suppress(BusmeshError):
            state.take(entry, now)
    return state.verifier.revocations


def check(home: Home, mesh: str) -> None:
    """Refuse a home that cannot run the authority of ``mesh``.

    Raises:
        NotFound, IdentityError, UsageError: what is missing or wrong.
    """
    _check_mesh(home, mesh)
    home.authority(mesh)
    home.trust(mesh)


def _check_mesh(home: Home, mesh: str) -> None:
    try:
        stored = home.context().mesh
    except NotFound:
        return
    if stored != mesh:
        raise UsageError(
            f"{home.path} is the home of mesh {stored!r}, not {mesh!r}",
            code="BM4601",
            hint=f"leave --mesh out, or give {mesh} a home of its own with --home",
        )


def _root(home: Home, mesh: str, now: float) -> CertificateAuthority:
    try:
        bundle: TrustBundle | None = home.trust(mesh)
    except NotFound:
        bundle = None
    try:
        ca = home.authority(mesh)
    except NotFound:
        if bundle is not None:
            raise UsageError(
                f"{home.path} trusts mesh {mesh!r} but does not have its root key",
                code="BM4602",
                hint="run the authority where ca/root.key is, or restore that file",
            ) from None
        ca = CertificateAuthority.create(mesh, now)
        home.save_authority(ca)
        log.info("mesh %s: made its root, valid for 10 years", mesh)
    if bundle is None:
        home.save_trust(ca.bundle)
    elif any(retired.certificate == ca.certificate for retired in bundle.retired):
        raise UsageError(
            f"the root in {home.path} was removed from mesh {mesh!r}, and nobody believes what it issues",
            code="BM4603",
            hint="copy the folder ca/ from the home where the root was rotated",
        )
    elif ca.certificate not in bundle.roots:  # members must believe what is issued here
        roots = (ca.certificate, *bundle.roots)  # the first one issues
        home.save_trust(TrustBundle(mesh, roots, bundle.version + 1, bundle.retired))
    return ca


def _join_token(home: Home, mesh: str, now: float) -> None:
    try:
        if home.join_token().id in home.grants():
            return
        log.info("the join token was revoked: making a new one")
    except NotFound:
        log.info("made a join token")
    join_token = JoinToken.generate(mesh)
    home.save_grant(Grant(join_token, created=now, description="made with the mesh"))
    home.save_join_token(join_token)

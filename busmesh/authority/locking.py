"""Locking a bus: the keys that sign logins, and the logins that people and newcomers need before any other.

Agents get theirs from the authority when they enrol. What is made here lies in the home: the operators'
logins, and the newcomers', which travels with the join token.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from cryptography import x509

from busmesh.authority.founding import revocations_of
from busmesh.authority.logins import Issued, Logins, observer
from busmesh.bus.accounts import BEGINNING, BusAccounts
from busmesh.bus.jwt import claims_of
from busmesh.bus.login import Credentials
from busmesh.bus.permissions import (
    accounts_permissions,
    authority_permissions,
    newcomer_permissions,
    observer_permissions,
    operator_permissions,
    writer_permissions,
)
from busmesh.bus.serverconfig import TlsFiles
from busmesh.errors import NotFound, UsageError
from busmesh.identity import files
from busmesh.identity.ca import CertificateAuthority, issue_server_certificate
from busmesh.identity.jointoken import Grant
from busmesh.identity.revocation import Revocations
from busmesh.identity.store import Home
from busmesh.identity.svid import Svid
from busmesh.names import Subjects

log = logging.getLogger(__name__)

#: The bus's own certificate is made anew when a server starts and half of this is over.
TLS_LIFETIME_S = 365 * 86400.0


def lock_bus(home: Home, mesh: str) -> BusAccounts:
    """Make what is missing for a locked bus of ``mesh``; what is there stays.

    Args:
        home: of the authority, founded.
        mesh: the mesh's name.

    Raises:
        IdentityError: something in the home cannot be trusted or read.
    """
    try:
        accounts = home.bus_accounts()
    except NotFound:
        accounts = BusAccounts.generate()
        home.save_bus_accounts(accounts)
        log.info("the bus of mesh %s is locked: made the keys that sign logins", mesh)
    grant_logins(home, mesh, accounts, revocations_of(home, mesh, time.time()))
    return accounts


def announce_bus(home: Home, mesh: str, url: str, *, mesh_tls: bool) -> None:
    """Say in the join token's file how newcomers reach the bus.

    Args:
        home: of the authority, founded.
        mesh: the mesh's name.
        url: NATS URLs, separated by commas.
        mesh_tls: the mesh's own root vouches for the bus, so newcomers must be given it.

    Raises:
        IdentityError: something in the home cannot be trusted or read.
    """
    ticket = home.join_ticket()
    roots = home.trust(mesh).certificates().decode().strip() if mesh_tls else ""
    wanted = dataclasses.replace(ticket, bus=url, roots=roots)
    if wanted != ticket:
        home.save_join_ticket(wanted)


def grant_logins(home: Home, mesh: str, accounts: BusAccounts, revocations: Revocations) -> None:
    """Make the logins of the operators and of newcomers that are missing or end before what they go with.

    An operator who was revoked loses the login that is here, so that commands show another's.

    Raises:
        IdentityError: something in the home cannot be trusted or read.
    """
    logins = Logins(home.bus_logins)
    for name in home.operators():
        svid = home.operator(name)
        until, held = svid.not_after, home.login("operator", name)
        if revocations.hitting(svid.id, svid.certificate.serial_number, svid.not_before) is not None:
            home.delete_login("operator", name)
        elif not (
            _good(held, accounts.account_id, until) and _good(held.writing, accounts.logs.public, until)
        ):
            home.save_login("operator", name, operator_credentials(accounts, svid, logins))
            log.info("operator %s: made a login to the bus", name)
    ticket = home.join_ticket()
    grant = home.grants().get(ticket.token.id)
    if grant is not None and not _good(ticket.credentials, accounts.account_id, None):
        home.save_join_ticket(dataclasses.replace(ticket, login=newcomer_login(accounts, grant)))


def newcomer_login(accounts: BusAccounts, grant: Grant) -> str:
    """Return the JWT by which the holder of a join token logs in; it ends when the token does."""
    token = grant.token
    made = accounts.credentials(
        f"newcomer {token.id}",
        newcomer_permissions(Subjects(token.mesh), token.id),
        expires=grant.expires,
        key=token.bus_key(),
    )
    return made.jwt


def operator_credentials(accounts: BusAccounts, svid: Svid, logins: Logins) -> Credentials:
    """Return a login for the operator whose SVID this is; it ends when that does."""
    name, subjects = svid.id.operator, Subjects(svid.id.mesh)
    made = accounts.credentials(
        f"operator {name}",
        operator_permissions(subjects, name),
        expires=svid.not_after,
        writing=writer_permissions(subjects, "operator", name),
    )
    logins.add(Issued.of(made.jwt, str(svid.id), svid.certificate.serial_number))
    return made


def authority_login(home: Home, mesh: str, name: str) -> Credentials | None:
    """Return a login for the authority itself, which signs it, and to the logs; None while the bus is open.

    It does not end: who has the signing key can make any login at any time.
    """
    try:
        accounts = home.bus_accounts()
    except NotFound:
        return None
    subjects = Subjects(mesh)
    return accounts.credentials(
        f"authority {name}",
        authority_permissions(subjects, name),
        writing=writer_permissions(subjects, "authority", name),
    )


def accounts_login(home: Home, mesh: str, name: str) -> Credentials | None:
    """Return a login by which the authority tells the server of accounts; None while the bus is open."""
    try:
        accounts = home.bus_accounts()
    except NotFound:
        return None
    permissions = accounts_permissions(Subjects(mesh), name, accounts.mesh_accounts(mesh, BEGINNING))
    return accounts.system_credentials(f"authority {name}", permissions)


def hand_out(home: Home, mesh: str, place: Home) -> None:
    """Put into another home what a command there needs beside keys and logins: roots, bus and mesh.

    Args:
        home: of the authority.
        mesh: the mesh's name.
        place: for somebody else; made with mode 0700 if missing.

    Raises:
        IdentityError: something in ``home`` cannot be trusted or read, or others may look into ``place``.
    """
    place.save_trust(home.trust(mesh))
    with contextlib.suppress(NotFound):  # whoever uses it says by flags where the bus is
        place.save_context(home.context())


def observer_login(
    home: Home, mesh: str, name: str, until: float, *, file: Path | None = None, place: Home | None = None
) -> Path:
    """Make a login for somebody who only looks; return its file.

    Args:
        home: of the authority.
        mesh: the mesh's name.
        name: whose it is.
        until: when it ends, unix seconds.
        file: where it goes instead of the home.
        place: a home for who only looks, to be copied to another machine whole; it gets the login.

    Raises:
        NotFound: the bus is not locked.
        IdentityError: something in the home cannot be trusted or read.
    """
    accounts = home.bus_accounts()
    permissions = observer_permissions(Subjects(mesh), name)
    made = accounts.credentials(f"observer {name}", permissions, expires=until)
    Logins(home.bus_logins).add(Issued.of(made.jwt, observer(name)))
    if place is not None:
        hand_out(home, mesh, place)
        return place.save_login("observer", name, made)
    if file is None:
        return home.save_login("observer", name, made)
    files.write(file, made.reveal().encode(), anywhere=True)
    return file


def server_tls(home: Home, mesh: str, hosts: Sequence[str], now: float) -> TlsFiles:
    """Return the bus's own certificate and key, by the mesh's root; made anew if old or for other hosts.

    Args:
        home: of the authority.
        mesh: the mesh's name.
        hosts: names and addresses by which the bus is reached.
        now: unix seconds.

    Raises:
        UsageError: no host, or what is none (code BM3012).
        IdentityError: something in the home cannot be trusted or read.
    """
    if not hosts:
        raise UsageError("a certificate needs a host", code="BM3012", hint="name one: --host bus.example.org")
    path = home.path / "ca" / "bus-tls.key"
    ca = home.authority(mesh)
    if not _still_good(home, ca, hosts, now):
        certificate, key = issue_server_certificate(ca, hosts, now, lifetime_s=TLS_LIFETIME_S)
        home.save_server_certificate(certificate, key)
        log.info("made a certificate for the bus at %s, valid for a year", ", ".join(hosts))
    return TlsFiles(path.with_suffix(".crt"), path)


def _good(held: Credentials | None, account: str, until: float | None) -> TypeGuard[Credentials]:
    """Say whether a login is to this account and lasts as long as what it goes with."""
    if held is None:
        return False
    nats = claims_of(held.jwt).get("nats")
    if not isinstance(nats, dict) or nats.get("issuer_account") != account:
        return False
    return until is None or held.expires is None or held.expires >= until - 1


def _still_good(home: Home, ca: CertificateAuthority, hosts: Sequence[str], now: float) -> bool:
    try:
        held = home.server_certificate()
    except NotFound:
        return False
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        held.issuer == ca.certificate.subject
        and {str(name.value) for name in names} == set(hosts)
        and held.not_valid_after_utc.timestamp() > now + TLS_LIFETIME_S / 2
    )


def check_host(host: str) -> None:
    """Refuse what is neither a host name nor an address.

    Raises:
        UsageError: so it is (code BM3012).
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        if len(host) > 253 or not all(
            label and len(label) <= 63 and label.replace("-", "a").isalnum() and label.isascii()
            for label in labels
        ):
            raise UsageError(
                f"{host[:80]!r} is neither a host name nor an address", code="BM3012", hint="write no port"
            ) from None

"""Join tokens made, narrowed and withdrawn, in the home of the authority.

A running authority reads its home once a second, so what is done here counts within a second and nobody is
restarted. Who has joined already stays: a token is asked for once, and shutting somebody out is a revocation.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import NamedTuple

from busmesh.authority.locking import newcomer_login
from busmesh.authority.logins import Logins, newcomers
from busmesh.errors import IdentityError, NotFound, UsageError
from busmesh.identity.jointoken import Grant, JoinToken, within
from busmesh.identity.store import Home
from busmesh.identity.ticket import JoinTicket


class Scope(NamedTuple):
    """Whom a token lets in: patterns of service and namespace; until when, in unix seconds, None for ever."""

    service: str = "*"
    namespace: str = "*"
    expires: float | None = None


def draft_token(
    home: Home, mesh: str, scope: Scope, now: float, *, description: str = "", bus: str = ""
) -> tuple[Grant, JoinTicket]:
    """Return a new token, as the authority is to keep it and as a newcomer gets it; nothing is saved yet.

    The newcomer's file says all that the home knows of the way to the bus: where it is, what vouches for it,
    and on a locked bus the login by which one may ask to be enrolled.

    Args:
        home: of the authority.
        mesh: the mesh's name.
        scope: whom it lets in.
        now: unix seconds.
        description: for the list.
        bus: how the newcomer reaches the bus, if not as the home's own join token says.

    Raises:
        NotFound: the home holds no root, so no authority reads what is made here (code BM4210).
        IdentityError: something in it cannot be trusted or read.
    """
    check_home(home, mesh)
    grant = Grant(JoinToken.generate(mesh), *scope, created=now, description=description)
    return grant, _ticket(home, grant, bus)


def check_home(home: Home, mesh: str) -> None:
    """Refuse a home that is not the authority's.

    Raises:
        NotFound: so it is (code BM4210).
        IdentityError: its root cannot be trusted or read.
    """
    try:
        home.authority(mesh)
    except NotFound:
        raise NotFound(
            f"{home.path} holds no root of the mesh, and only an authority's home has join tokens",
            code="BM4210",
            hint="run it where `busmesh up` or `busmesh authority run` runs: --home, BUSMESH_HOME",
        ) from None


def find(home: Home, token_id: str) -> Grant:
    """Return what a token allows.

    Raises:
        NotFound: there is no such token (code BM4212).
    """
    grant = home.grants().get(token_id)
    if grant is None:
        raise NotFound(
            f"there is no join token {token_id[:80]!r}", code="BM4212", hint="busmesh identity token list"
        )
    return grant


def narrowed(grant: Grant, service: str | None, namespace: str | None, expires: float | None) -> Grant:
    """Return ``grant`` with a smaller scope; None leaves a part of it as it is.

    Its file may be anywhere by now, so nothing is widened: the bus's login in it would not follow.

    Raises:
        UsageError: it would let in somebody whom it does not let in now (code BM4213).
    """
    service, namespace = service or grant.service, namespace or grant.namespace
    wider = [
        f"{what} {asked} is not within {held}"
        for what, asked, held in (
            ("service", service, grant.service),
            ("namespace", namespace, grant.namespace),
        )
        if not within(asked, held)
    ]
    if expires is not None and grant.expires is not None and expires > grant.expires:
        wider.append("it would last longer")
    if wider:
        raise UsageError(
            f"join token {grant.token.id} is only made narrower: {', '.join(wider)}",
            code="BM4213",
            hint="make another: busmesh identity token create",
        )
    return dataclasses.replace(
        grant,
        service=service,
        namespace=namespace,
        expires=grant.expires if expires is None else expires,
    )


def remember_login(home: Home, grant: Grant, now: float) -> None:
    """Write down the login that goes with a token as it is now, so that it can be taken back later.

    A running authority does so by itself; this is for a token that changes while there is none.

    Raises:
        OSError: it cannot be written.
    """
    with contextlib.suppress(NotFound):  # the bus asks nobody for a login
        home.bus_accounts()
        Logins(home.bus_logins).append(newcomers(grant, now))


def withdraw(home: Home, grant: Grant, now: float) -> Grant | None:
    """Forget a token; return what replaces it if it was the home's own, by which agents here join.

    The new one allows the same, so a leaked token can be withdrawn without a pause for those who stay.
    """
    remember_login(home, grant, now)
    home.delete_ticket(grant.token.id)
    replacement = None
    if own_token(home) == grant.token.id:
        replacement = dataclasses.replace(
            grant,
            token=JoinToken.generate(grant.token.mesh),
            created=now,
            expires=None if grant.over(now) else grant.expires,
        )
        ticket = _ticket(home, replacement, "")
        home.save_grant(replacement)
        home.save_join_ticket(ticket)
    home.delete_grant(grant.token.id)
    return replacement


def own_token(home: Home) -> str:
    """Return the id of the token by which agents of this home join; empty if there is none."""
    try:
        return home.join_token().id
    except (NotFound, IdentityError):  # there is none, or what stands there is none
        return ""


def _ticket(home: Home, grant: Grant, bus: str) -> JoinTicket:
    try:
        way = home.join_ticket()
    except NotFound:
        way = JoinTicket(grant.token)
    try:
        login = newcomer_login(home.bus_accounts(), grant)
    except NotFound:
        login = ""
    # What vouches for the bus may be another root by now than when the home's own token was made.
    roots = home.trust(grant.token.mesh).certificates().decode().strip() if way.roots else ""
    return JoinTicket(grant.token, bus or way.bus or _own_bus(home), login, roots)


def _own_bus(home: Home) -> str:
    try:
        return home.context().bus
    except NotFound:
        return ""

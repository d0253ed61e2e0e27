"""What the operator's commands share: a connection that knows whom to believe, and who the operator is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from busmesh.bus.bus import Bus
from busmesh.bus.policylog import LogUnavailable
from busmesh.cli.context import Context, connected, writer
from busmesh.cli.figures import rfc3339
from busmesh.errors import BusmeshError, Denied, IdentityError, NotFound, UsageError
from busmesh.identity.alarms import Alarms, late
from busmesh.identity.svid import Svid
from busmesh.identity.trust import key_identifier
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects
from busmesh.operator.trusting import read_trust
from busmesh.operator.wording import counted

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an operator sits: the bus, the subjects of one mesh, and whose signatures count."""

    bus: Bus
    subjects: Subjects
    verifier: Verifier
    context: Context

    def writer(self) -> contextlib.AbstractAsyncContextManager[Bus]:
        """Give the connection by which to write to the logs.

        Raises:
            BusUnavailable: no server answered.
        """
        return writer(self.context, self.bus)


@contextlib.asynccontextmanager
async def desk(context: Context) -> AsyncIterator[Desk]:
    """Connect to the mesh of ``context``, and believe what its trust log says on top of the home's roots.

    Without that, what a revoked operator appends would look like policy here and count for nothing at every
    agent. A log that cannot be read leaves the home's word.

    Raises:
        NotFound: the home does not know the mesh's roots.
        UsageError: the home belongs to another mesh (code BM2312).
        BusUnavailable: no server answered.
    """
    verifier = home_verifier(context)
    async with connected(context) as bus:
        with contextlib.suppress(LogUnavailable, Denied):
            await read_trust(bus, context.subjects, verifier)
        _look_ahead(context, verifier)
        yield Desk(bus, context.subjects, verifier, context)


def _look_ahead(context: Context, verifier: Verifier) -> None:
    """Say on every command what will end soon: the person who can do something about it sits here."""
    now = time.time()
    for root, days in Alarms().due(verifier.bundle, now):
        name = key_identifier(root).hex()[:12]
        _warn(f"root {name} of the mesh ends in less than {counted(days, 'day', 'days')}", "rotate")
    for name in context.home.operators():
        with contextlib.suppress(BusmeshError):
            svid = context.home.operator(name)
            if late(svid.issued, svid.not_after, now):
                _warn(f"the SVID of operator {name} ends at {rfc3339(svid.not_after)}", f"issue {name}")


def _warn(what: str, remedy: str) -> None:
    click.echo(f"warning: {what}: busmesh identity {remedy}", err=True)


def home_verifier(context: Context) -> Verifier:
    """Return whom the home believes.

    Raises:
        NotFound: the home does not know the mesh's roots.
        UsageError: the home belongs to another mesh (code BM2312).
        IdentityError: its roots cannot be trusted or read.
    """
    try:
        return Verifier(context.home.trust(context.mesh))
    except IdentityError:
        known = context.mesh
        with contextlib.suppress(BusmeshError):  # a home need not say whose it is
            known = context.home.context().mesh
        if known == context.mesh:
            raise
        raise UsageError(
            f"{context.home.path} is the home of mesh {known!r}, not {context.mesh!r}",
            code="BM2312",
            hint=f"set the mesh to {known}, or name the home of {context.mesh}: --home, BUSMESH_HOME",
        ) from None


def operator_option(command: F) -> F:
    """Give a command ``--as NAME``, passed as ``operator``."""
    return click.option(
        "--as",
        "operator",
        envvar="BUSMESH_OPERATOR",
        metavar="NAME",
        help="Which operator signs.  [env: BUSMESH_OPERATOR; default: the only one in the home]",
    )(command)


def operator_svid(context: Context, name: str | None) -> Svid:
    """Return the identity of the operator ``name``, or of the only one whose key is in the home.

    Raises:
        NotFound: there is none (code BM2309, or BM4501 for a name).
        UsageError: there are several and none was named (code BM2310).
    """
    if name is not None:
        return context.home.operator(name)
    names = context.home.operators()
    if not names:
        raise NotFound(
            f"{context.home.path} holds no operator's key, and only operators publish",
            code="BM2309",
            hint="`busmesh up` makes one; or name the home that has one: --home, BUSMESH_HOME",
        )
    if len(names) > 1:
        raise UsageError(
            f"{context.home.path} holds the keys of {len(names)} operators",
            code="BM2310",
            hint=f"say which one signs: --as {names[0]}",
        )
    return context.home.operator(names[0])

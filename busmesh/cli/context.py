"""Which mesh, which bus, which login: flag > environment > context in the home > default.

``busmesh up`` leaves a context in ``$BUSMESH_HOME``, so on its machine no other command needs a flag.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from busmesh.bus.bus import Bus
from busmesh.bus.login import Credentials, Login
from busmesh.bus.options import BusOptions
from busmesh.errors import NotFound, UsageError
from busmesh.identity.store import Home, operator_login
from busmesh.names import DEFAULT_MESH, Subjects, token

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

DEFAULT_BUS = "nats://127.0.0.1:4222"
#: A command that only asks gives up after this long without a bus, in seconds.
PATIENCE_S = 3.0
_SCHEMES = ("nats://", "tls://", "ws://", "wss://")


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works with.

    Attributes:
        home: keys, join token and stored context.
        mesh: its name.
        servers: NATS URLs; any of them will do.
        credentials: a NATS ``.creds`` file.
        nkey: a file with an nkey seed.
        tls_ca: PEM file with the authorities of the servers' certificates.
    """

    home: Home
    mesh: str
    servers: tuple[str, ...]
    credentials: Path | None = None
    nkey: Path | None = None
    tls_ca: Path | None = None

    @property
    def bus_url(self) -> str:
        """The servers as one text, as ``--bus`` takes it."""
        return ",".join(self.servers)

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.mesh)

    def bus_options(self, name: str, inbox_prefix: str) -> BusOptions:
        """Return how to connect, with a login that is yet to come.

        Args:
            name: what the server's list of connections shows.
            inbox_prefix: where answers come.
        """
        return self._options(name, inbox_prefix, Login())

    def _options(self, name: str, inbox_prefix: str, login: Login | None) -> BusOptions:
        return BusOptions(self.servers, name, inbox_prefix, self.credentials, self.nkey, self.tls_ca, login)

    def desk_options(self, name: str) -> BusOptions:
        """Return how an operator's or observer's command connects: by the login in the home, if it has one.

        A login may be held to an inbox of its own, which it says itself.

        Raises:
            IdentityError: the stored login cannot be trusted or read.
        """
        held = self._held()
        return self._options(name, self._inbox(held, name), Login(held) if held is not None else None)

    def writing_options(self, name: str) -> BusOptions | None:
        """Return how the same login writes to the logs of a locked bus; None: over the one connection.

        Raises:
            IdentityError: the stored login cannot be trusted or read.
        """
        held = self._held()
        if held is None or held.writing is None or self.nkey is not None:
            return None
        inbox, login = self._inbox(held, name), Login(held.writing)
        return BusOptions(self.servers, name, inbox, tls_ca=self.tls_ca, login=login)

    def _held(self) -> Credentials | None:
        return self._named() if self.credentials is not None else operator_login(self.home)

    def _inbox(self, held: Credentials | None, name: str) -> str:
        own = held.inbox_prefix(self.subjects.root) if held is not None else None
        return self.subjects.inbox_prefix(name) if own is None else f"{own}.{name}"

    def _named(self) -> Credentials | None:
        """Return what the file named by ``--creds`` holds; that it holds nothing is said when connecting."""
        with contextlib.suppress(OSError, UsageError):
            if self.credentials is not None:
                return Credentials.parse(self.credentials.read_text(encoding="ascii", errors="replace"))
        return None


def resolve(
    home: Path | None = None,
    bus: str | None = None,
    mesh: str | None = None,
    *,
    creds: Path | None = None,
    nkey: Path | None = None,
    tls_ca: Path | None = None,
) -> Context:
    """Fill what flags and environment left open from the home's context, then from the defaults.

    Raises:
        UsageError: ``mesh`` is no name, or ``bus`` no NATS URL (code BM3010).
        IdentityError: the stored context cannot be trusted or read.
    """
    place = Home(home.expanduser()) if home is not None else Home.default(os.environ)
    if not bus or not mesh:
        with contextlib.suppress(NotFound):
            stored = place.context()
            if not bus and stored.tls_ca and tls_ca is None:
                tls_ca = place.path / stored.tls_ca
            bus, mesh = bus or stored.bus, mesh or stored.mesh
    servers = servers_of(bus or DEFAULT_BUS)
    return Context(place, token(mesh or DEFAULT_MESH, "mesh"), servers, creds, nkey, tls_ca)


def servers_of(bus: str) -> tuple[str, ...]:
    """Return the NATS URLs in a text that separates them by commas.

    Raises:
        UsageError: one is none (code BM3010).
    """
    return tuple(_server(part) for part in bus.split(",") if part.strip())


def _server(text: str) -> str:
    url = text.strip()
    if "://" not in url:
        url = f"nats://{url}"
    if not url.startswith(_SCHEMES) or not url.isprintable() or " " in url:
        raise UsageError(f"{text!r} is not the URL of a bus", code="BM3010", hint=f"write {DEFAULT_BUS}")
    return url


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

home_option = click.option(
    "--home",
    envvar="BUSMESH_HOME",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keys, join token and context.  [env: BUSMESH_HOME; default: ~/.busmesh]",
)
mesh_option = click.option(
    "--mesh",
    envvar="BUSMESH_MESH",
    metavar="NAME",
    help=f"Which mesh.  [env: BUSMESH_MESH; default: the home's context, else {DEFAULT_MESH}]",
)
_BUS_OPTIONS = (
    click.option(
        "--bus",
        envvar=["BUSMESH_BUS", "NATS_URL"],
        metavar="URL[,URL]",
        help=f"NATS servers.  [env: BUSMESH_BUS, NATS_URL; default: the home's context, else {DEFAULT_BUS}]",
    ),
    click.option(
        "--creds",
        envvar=["BUSMESH_CREDS", "NATS_CREDS"],
        type=_FILE,
        help="NATS credentials file.  [env: BUSMESH_CREDS, NATS_CREDS]",
    ),
    click.option(
        "--nkey", envvar="NATS_NKEY", type=_FILE, help="File with a NATS nkey seed.  [env: NATS_NKEY]"
    ),
    click.option(
        "--tls-ca",
        envvar="NATS_CA",
        type=_FILE,
        help="PEM file with the authorities of the NATS servers' certificates.  [env: NATS_CA]",
    ),
)


def context_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options that say which mesh and bus, and pass it one ``context`` made of them."""

    @functools.wraps(command)
    def resolved(
        *args: Any,
        home: Path | None,
        bus: str | None,
        mesh: str | None,
        creds: Path | None,
        nkey: Path | None,
        tls_ca: Path | None,
        **rest: Any,
    ) -> T:
        context = resolve(home, bus, mesh, creds=creds, nkey=nkey, tls_ca=tls_ca)
        return command(*args, context=context, **rest)

    for option in (*reversed(_BUS_OPTIONS), mesh_option, home_option):
        resolved = option(resolved)
    return resolved


@contextlib.asynccontextmanager
async def connected(context: Context, *, patience: float | None = PATIENCE_S) -> AsyncIterator[Bus]:
    """Connect a command that asks and ends; it gets an inbox of its own.

    Args:
        context: where to.
        patience: seconds to try for; None: for ever.

    Raises:
        BusUnavailable: no server answered in that time.
        Denied: the server refused the login.
    """
    async with _standing(context.desk_options(f"busmesh-{secrets.token_hex(4)}"), patience) as bus:
        yield bus


@contextlib.asynccontextmanager
async def writer(context: Context, bus: Bus, *, patience: float | None = PATIENCE_S) -> AsyncIterator[Bus]:
    """Give the connection by which a command writes to the logs: ``bus``, or one of its own if it is locked.

    Raises:
        BusUnavailable: no server answered in ``patience`` seconds.
        Denied: the server refused the login.
    """
    options = context.writing_options(f"busmesh-{secrets.token_hex(4)}")
    if options is None:
        yield bus
        return
    async with _standing(options, patience) as logs:
        yield logs


@contextlib.asynccontextmanager
async def _standing(options: BusOptions, patience: float | None) -> AsyncIterator[Bus]:
    bus = Bus(options)
    try:
        await bus.connect(patience=patience)
        yield bus
    finally:
        await bus.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end, on uvloop where there is one: it halves the latency of a request."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):  # there is none for Windows
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_heard(main))


async def _heard(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``; when it is to end, say so until it does: nats-py swallows a cancellation now and then."""
    task = asyncio.create_task(main)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.5)
        if not task.cancelled():
            task.exception()  # seen; that the command was interrupted is what counts
        raise

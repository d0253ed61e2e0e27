"""``busmesh up``: a local bus and the authority, in one process."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click

from busmesh.authority.founding import found, operator_name
from busmesh.authority.locking import announce_bus, lock_bus, server_tls
from busmesh.bus.server import DEFAULT_PORT, HOST, LocalServer
from busmesh.bus.serverconfig import Security
from busmesh.cli.authority import authority_options, build_authority, close, connect, keep_context, places
from busmesh.cli.context import Context, home_option, mesh_option, resolve, run
from busmesh.cli.logs import log_option
from busmesh.cli.output import ready, tell_person
from busmesh.cli.signals import stop_signals, unless_stopped
from busmesh.identity.store import TRUST


@click.command()
@click.option(
    "--port",
    envvar="BUSMESH_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the bus on 127.0.0.1; 0 takes any free one.  [env: BUSMESH_PORT]",
)
@click.option(
    "--store",
    envvar="BUSMESH_STORE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Streams, configuration and log of the bus.  [env: BUSMESH_STORE; default: bus in the home]",
)
@click.option(
    "--tls",
    envvar="BUSMESH_TLS",
    is_flag=True,
    help="Encrypt the way to the bus, by a certificate of the mesh.  [env: BUSMESH_TLS]",
)
@authority_options
@mesh_option
@home_option
@log_option("info")
def up(
    home: Path | None,
    mesh: str | None,
    port: int,
    store: Path | None,
    tls: bool,
    operator: str | None,
    svid_lifetime: float | None,
) -> None:
    """Run a local bus and the authority in the foreground.

    State is kept in --home, so the next `up` goes on where this one ends, and other commands on this machine
    find the mesh without flags. One JSON line on stdout says when it is ready. SIGTERM or Ctrl-C ends it.

    The bus is locked: it lets in who has a login, and each login may do only what its holder does. Logins are
    made and found by themselves; `join-token` in the home is all that an agent elsewhere needs to get one.

    \b
    Examples:
      busmesh up
      busmesh up --port 0 --home ./mesh
      busmesh up --tls
    """
    context = resolve(home, mesh=mesh)
    now = time.time()
    found(context.home, context.mesh, operator or operator_name(), now)
    accounts = lock_bus(context.home, context.mesh)
    files = server_tls(context.home, context.mesh, (HOST, "localhost"), now) if tls else None
    server = LocalServer(
        store or context.home.path / "bus",
        port=port,
        name=f"busmesh-{context.mesh}",
        security=Security(context.mesh, accounts, files),
    )
    run(_serve(context, server, svid_lifetime))


async def _serve(context: Context, server: LocalServer, lifetime_s: float | None) -> None:
    with stop_signals() as stop:
        try:
            if not await unless_stopped(stop, server.start()):
                return
            tls = server.security is not None and server.security.tls is not None
            tls_ca = context.home.path / TRUST if tls else None
            context = dataclasses.replace(context, servers=(server.url,), tls_ca=tls_ca)
            announce_bus(context.home, context.mesh, server.url, mesh_tls=tls)
            buses, authority = build_authority(context, lifetime_s=lifetime_s)
            try:
                if await unless_stopped(stop, connect(buses)):
                    await authority.start()
                    keep_context(context, replace=True)
                    ready(bus=server.url, mesh=context.mesh, **places(context))
                    tell_person(*_next_steps(context))
                    await stop.wait()
            finally:
                await authority.stop()
                await close(buses)
        finally:
            await server.stop()


def _next_steps(context: Context) -> list[str]:
    return [
        "",
        f"Mesh {context.mesh!r} is up on {context.bus_url}. In another terminal:",
        "",
        "  busmesh agent run FILE -- APP COMMAND    put an agent next to a service",
        "  busmesh services                         see who is there",
        "  busmesh policy publish FILE              say how requests are routed",
        "",
        f"Everything is kept in {context.home.path}; Ctrl-C ends it.",
        "",
    ]

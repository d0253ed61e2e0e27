"""``busmesh up``: a local bus and the authority, in one process."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click

from busmesh.authority.founding import found, operator_name
from busmesh.bus.server import DEFAULT_PORT, LocalServer
from busmesh.cli.authority import authority_options, build_authority, connect, keep_context, places
from busmesh.cli.context import Context, home_option, mesh_option, resolve, run
from busmesh.cli.logs import log_option
from busmesh.cli.output import ready, tell_person
from busmesh.cli.signals import stop_signals, unless_stopped


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
@authority_options
@mesh_option
@home_option
@log_option("info")
def up(
    home: Path | None,
    mesh: str | None,
    port: int,
    store: Path | None,
    operator: str | None,
    svid_lifetime: float | None,
) -> None:
    """Run a local bus and the authority in the foreground.

    State is kept in --home, so the next `up` goes on where this one ends, and other commands on this machine
    find the mesh without flags. One JSON line on stdout says when it is ready. SIGTERM or Ctrl-C ends it.

    \b
    Examples:
      busmesh up
      busmesh up --port 0 --home ./mesh
    """
    context = resolve(home, mesh=mesh)
    found(context.home, context.mesh, operator or operator_name(), time.time())
    server = LocalServer(store or context.home.path / "bus", port=port, name=f"busmesh-{context.mesh}")
    run(_serve(context, server, svid_lifetime))


async def _serve(context: Context, server: LocalServer, lifetime_s: float | None) -> None:
    with stop_signals() as stop:
        try:
            if not await unless_stopped(stop, server.start()):
                return
            context = dataclasses.replace(context, servers=(server.url,))
            bus, authority = build_authority(context, lifetime_s=lifetime_s)
            try:
                if await unless_stopped(stop, connect(bus)):
                    await authority.start()
                    keep_context(context, replace=True)
                    ready(bus=server.url, mesh=context.mesh, **places(context))
                    tell_person(*_next_steps(context))
                    await stop.wait()
            finally:
                await authority.stop()
                await bus.close()
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

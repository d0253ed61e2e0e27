"""``busmesh bus``: what a NATS server of yours needs to carry a mesh, locked."""

from __future__ import annotations

import ipaddress
import json
import time
from pathlib import Path

import click

from busmesh.authority.founding import found, operator_name
from busmesh.authority.locking import announce_bus, check_host, lock_bus, observer_login, server_tls
from busmesh.bus.serverconfig import LIMITS, Security, TlsFiles, base_lines
from busmesh.cli.context import home_option, mesh_option, resolve
from busmesh.cli.duration import Duration
from busmesh.cli.logs import log_option
from busmesh.cli.output import tell_person
from busmesh.errors import NotFound, UsageError
from busmesh.identity.store import TRUST, Context, Home

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)


@click.group()
def bus() -> None:
    """A NATS server of yours, locked for this mesh."""


@bus.command("config")
@click.option(
    "--listen", default="0.0.0.0:4222", show_default=True, metavar="HOST:PORT", help="Where it listens."
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name or address by which it is reached; repeat for more. The first goes into the join token.",
)
@click.option("--tls", is_flag=True, help="Encrypt, by a certificate that the mesh issues for each --host.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Encrypt, by this certificate (PEM) instead.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="The key of --tls-cert.")
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    help="Folder of the server's streams.  [default: bus in the home]",
)
@click.option("--name", metavar="NAME", help="The server's own name.  [default: busmesh-MESH]")
@click.option(
    "--file",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there.  [default: stdout]",
)
@mesh_option
@home_option
@log_option()
def config(
    listen: str,
    hosts: tuple[str, ...],
    tls: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    store: Path | None,
    name: str | None,
    target: Path | None,
    mesh: str | None,
    home: Path | None,
) -> None:
    """Write the configuration of a NATS server that only members of this mesh may use.

    Every login may do what its holder does and nothing else: an agent speaks as its own instance, an operator
    publishes policies, a newcomer asks to be enrolled. The authority signs the logins, so the server is not
    told of agents that come and go, and the configuration holds no secret. The keys that sign are made in
    --home, where `busmesh authority run` finds them; the join token there gets the way to this bus.

    \b
    Examples:
      busmesh bus config --host bus.example.org --tls --file nats.conf
      nats-server -c nats.conf
      busmesh authority run
    """
    context = resolve(home, mesh=mesh)
    if (tls_cert is None) is not (tls_key is None) or (tls and tls_cert is not None):
        raise UsageError("--tls-cert and --tls-key go together, and without --tls", code="BM3013")
    address, port = _split(listen)
    reached = hosts or ("127.0.0.1" if _is_everywhere(address) else address,)
    for host in (address, *reached):
        check_host(host)
    now = time.time()
    found(context.home, context.mesh, operator_name(), now)
    accounts = lock_bus(context.home, context.mesh)
    given = TlsFiles(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    encrypted = server_tls(context.home, context.mesh, reached, now) if tls else given
    folder = store or context.home.path / "bus"
    lines = [
        f"# A NATS server for the mesh {context.mesh}: `busmesh bus config`. Nothing in here is secret.",
        *base_lines(
            name=name or f"busmesh-{context.mesh}",
            listen=f"{_bracketed(address)}:{port}",
            store=folder,
        ),
        *Security(context.mesh, accounts, encrypted).lines(folder),
        *LIMITS,
    ]
    url = f"{'nats' if encrypted is None else 'tls'}://{_bracketed(reached[0])}:{port}"
    _remember(context.home, context.mesh, url, mesh_tls=tls)
    text = "\n".join([*lines, ""])
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text, encoding="utf-8")
    if encrypted is None and not _is_loopback(address):
        click.echo(
            "warning: without TLS, who listens on the network learns who talks to whom, and reads telemetry\n"
            "  -> --tls --host NAME, or --tls-cert and --tls-key",
            err=True,
        )
    tell_person(
        "",
        f"The bus will be {url}. Next:",
        "",
        f"  nats-server -c {target or 'FILE'}",
        f"  busmesh authority run --home {context.home.path}",
        f"  busmesh agent run FILE --join {context.home.path / 'join-token'}   (elsewhere: a copy of it)",
        "",
    )


@bus.command("login")
@click.argument("name")
@click.option("--for", "lifetime", default="90d", type=Duration(), show_default=True, metavar="DURATION")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the login alone there, for tools of NATS.  [default: observer/NAME.creds in the home]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Home to write it to, with the way to the bus and the roots, for another machine.",
)
@mesh_option
@home_option
@log_option()
def login(
    name: str, lifetime: float, file: Path | None, out: Path | None, mesh: str | None, home: Path | None
) -> None:
    """Make a login for somebody who only looks: roll call, policies in force, telemetry.

    Run it in the home of the authority. With --out the folder is all that another machine needs: copy it
    there, and name it by --home. A --file is the login alone, for the tools of NATS: `nats --creds FILE`.

    \b
    Examples:
      busmesh bus login board --out ./for-board
      busmesh services --home ./for-board
      busmesh bus login grafana --for 30d --file grafana.creds
    """
    context = resolve(home, mesh=mesh)
    if file is not None and out is not None:
        raise UsageError("--file is for the login alone, --out for a whole home: take one", code="BM3016")
    place = Home(out) if out is not None else None
    try:
        path = observer_login(
            context.home, context.mesh, name, time.time() + lifetime, file=file, place=place
        )
    except NotFound:
        raise NotFound(
            f"{context.home.path} does not hold the keys of a locked bus",
            code="BM3014",
            hint="`busmesh up` and `busmesh bus config` make them; name the home of the authority: --home",
        ) from None
    made = {"login": name, "file": str(path.absolute())}
    click.echo(json.dumps(made if out is None else made | {"home": str(out.absolute())}))
    if out is not None:
        tell_person(
            "",
            f"Copy the folder to the other machine (`scp -rp` keeps its mode), and there:  {out}",
            "",
            f"  busmesh services --home {out.name}",
            "",
        )


def _remember(home: Home, mesh: str, url: str, *, mesh_tls: bool) -> None:
    announce_bus(home, mesh, url, mesh_tls=mesh_tls)
    home.save_context(Context(url, mesh, TRUST if mesh_tls else ""))


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536 or not listen.isprintable():
        raise UsageError(f"{listen[:80]!r} is not HOST:PORT", code="BM3015", hint="write 0.0.0.0:4222")
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

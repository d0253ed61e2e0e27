"""``busmesh call``: one request through the mesh, from the terminal."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import click

from busmesh.agent.agent import Agent
from busmesh.agent.definition import AgentDefinition
from busmesh.bus.bus import Bus
from busmesh.cli.agent import with_ticket
from busmesh.cli.callagent import Answered, Way, admin_address, answered, through
from busmesh.cli.callexplained import tell_call
from busmesh.cli.context import PATIENCE_S, Context, context_options, run
from busmesh.cli.logs import log_option
from busmesh.cli.output import Output, output_option, tell_person
from busmesh.errors import BusmeshError, BusUnavailable, UsageError
from busmesh.identity.store import AgentHome, read_join_ticket
from busmesh.names import ServiceName, Subjects
from busmesh.relay.application.call import AppFailure

#: Seconds for enrolment and the first policy synchronisation.
START_S = 10.0


@click.command()
@click.argument("service")
@click.argument("path", default="/")
@click.option("-X", "--method", help="Default: GET, or POST with data.")
@click.option("-d", "--data", help="Body of the request; @FILE reads a file, @- standard input.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="May be repeated.")
@click.option("-i", "--include", is_flag=True, help="Print status and headers as well.")
@click.option("--timeout", default=15.0, show_default=True, help="Seconds for the whole call.")
@click.option("--as", "caller", default="cli", show_default=True, metavar="SERVICE", help="Who calls.")
@click.option(
    "--join",
    envvar="BUSMESH_JOIN",
    metavar="TOKEN-FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Join token, where the home has none.  [env: BUSMESH_JOIN]",
)
@click.option(
    "--explain",
    is_flag=True,
    help="In place of the body print which rule, which instances could be asked, which was, and why.",
)
@click.option(
    "--agent",
    "beside",
    metavar="HOST:PORT",
    help="Send by the agent with this admin address, which knows ejections, breakers and load.",
)
@output_option
@context_options
@log_option()
def call(
    service: str,
    path: str,
    method: str | None,
    data: str | None,
    headers: tuple[str, ...],
    include: bool,
    timeout: float,
    caller: str,
    join: Path | None,
    explain: bool,
    beside: str | None,
    output: Output,
    context: Context,
) -> int:
    """Send one request to SERVICE through the mesh and print the response.

    It goes the way of every request: a client-only agent is started for it in this process, with an identity
    of its own, and routes by the policies in force. Ends with 0 for a status below 400, else with 1.

    \b
    Examples:
      busmesh call orders /orders
      busmesh call orders /orders -H 'x-canary: always' -i
      busmesh call orders /orders -d '{"item": 7}' -H 'content-type: application/json'
      busmesh call orders /orders --explain --agent 127.0.0.1:15000
    """
    name = ServiceName.parse(service)
    if not path.startswith("/"):
        raise UsageError(f"path {path!r} does not begin with '/'", code="BM1212", hint=f"write /{path}")
    body = _body(data)
    verb = (method or ("POST" if data is not None else "GET")).upper()
    lines = "".join(f"{_header(header)}\r\n" for header in headers)
    if "\r\nhost:" not in f"\r\n{lines.lower()}":
        lines = f"Host: {name}\r\n{lines}"
    target = quote(path, safe="/?&=%:@!$'()*+,;~-._[]#").partition("#")[0]
    way = Way(verb.encode(), target.encode(), lines, body, timeout, explain=explain)
    if beside is not None:
        result, found = run(through(way, admin_address(beside)))
    else:
        result, found = run(_call(context, join, caller, way))
    if found is not None:
        tell_call(found, result, output)
    if isinstance(result, AppFailure):
        raise BusmeshError(f"no response: {result.message}", code="BM3301")
    if found is not None:
        return 0 if result.status < 400 else 1
    if include:
        click.echo(f"HTTP/1.1 {result.status} {result.reason.decode('latin-1')}", err=True)
        click.echo(result.headers.decode("latin-1").replace("\r\n", "\n"), err=True)
    sys.stdout.buffer.write(result.body)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not result.body.endswith(b"\n"):
        tell_person("")
    return 0 if result.status < 400 else 1


def _body(data: str | None) -> bytes:
    if data is None:
        return b""
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        try:
            return Path(data[1:]).read_bytes()
        except OSError as error:
            raise UsageError(f"{data[1:]} cannot be read: {error.strerror}", code="BM1100") from None
    return data.encode()


def _header(text: str) -> str:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(c in text for c in "\r\n\0"):
        raise UsageError(f"header {text!r} is not NAME:VALUE", code="BM1209")
    return f"{name.strip()}: {value.strip()}"


async def _call(context: Context, join: Path | None, caller: str, way: Way) -> Answered:
    definition = AgentDefinition.model_validate(
        {
            "service": caller,
            "outbound": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "telemetry": {"accessLog": 0.0},
        }
    )
    instance = f"{definition.name.name[:54]}-{token_hex(4)}"
    # Whoever calls once leaves nothing behind, so the agent's home is a folder for the time being.
    with tempfile.TemporaryDirectory(prefix="busmesh-call-") as folder:
        home = AgentHome(Path(folder))
        if join is not None:
            context = with_ticket(context, join, definition, home)
        subjects = Subjects(context.mesh)
        bus = Bus(context.bus_options(f"busmesh call {instance}", subjects.inbox_prefix(instance)))
        agent = Agent(
            definition,
            mesh=context.mesh,
            bus=bus,
            home=home,
            ticket=lambda: read_join_ticket(join) if join is not None else context.home.join_ticket(),
            instance=instance,
        )
        try:
            await _start(agent)
            return await answered(way, agent.outbound_address, agent.admin_address)
        finally:
            await agent.close()


async def _start(agent: Agent) -> None:
    try:
        async with asyncio.timeout(START_S):
            await agent.start(patience=PATIENCE_S)
            while agent.readiness.awaited():  # noqa: ASYNC110 - asked a few times, once
                await asyncio.sleep(0.005)
    except TimeoutError:
        awaited = ", ".join(agent.readiness.awaited().values()) or "the authority to enrol with"
        raise BusUnavailable(
            f"not ready within {START_S:g} s: waiting for {awaited}",
            code="BM3302",
            hint="is `busmesh up` running?",
        ) from None

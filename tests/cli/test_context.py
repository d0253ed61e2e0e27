"""Flag > environment > context in the home > default, for every way to name a mesh and its bus."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from busmesh.cli.context import Context, _heard, context_options, resolve, run
from busmesh.errors import IdentityError, InvalidName, UsageError
from busmesh.identity import store
from busmesh.identity.store import Home


@pytest.fixture
def stored(busmesh_home: Path) -> Home:
    home = Home(busmesh_home)
    home.save_context(store.Context("nats://stored:1", "stored"))
    return home


def context_of(*words: str, **env: str) -> Context:
    """Return what a command is given for these flags and variables."""
    found: list[Context] = []

    @click.command()
    @context_options
    def command(context: Context) -> None:
        found.append(context)

    result = CliRunner().invoke(command, words, env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_anything_it_is_the_local_mesh(busmesh_home: Path) -> None:
    context = context_of()
    assert (context.mesh, context.servers) == ("local", ("nats://127.0.0.1:4222",))
    assert context.home.path == busmesh_home


def test_the_stored_context_comes_before_the_defaults(stored: Home) -> None:
    context = context_of()
    assert (context.mesh, context.bus_url) == ("stored", "nats://stored:1")


@pytest.mark.parametrize(
    ("words", "env", "bus"),
    [
        ([], {"NATS_URL": "nats://n:1"}, "nats://n:1"),
        ([], {"NATS_URL": "nats://n:1", "BUSMESH_BUS": "nats://b:1"}, "nats://b:1"),
        (["--bus", "nats://f:1"], {"BUSMESH_BUS": "nats://b:1"}, "nats://f:1"),
        (["--bus", "f:1, tls://g:2"], {}, "nats://f:1,tls://g:2"),
    ],
)
def test_flag_then_environment_then_context(
    stored: Home, words: list[str], env: dict[str, str], bus: str
) -> None:
    context = context_of(*words, **env)
    assert (context.bus_url, context.mesh) == (bus, "stored")


def test_mesh_and_home(stored: Home, tmp_path: Path) -> None:
    assert context_of("--mesh", "m").mesh == "m"
    assert context_of(BUSMESH_MESH="m").mesh == "m"
    assert context_of("--mesh", "f", BUSMESH_MESH="m").mesh == "f"
    elsewhere = context_of("--home", str(tmp_path / "other"))
    assert (elsewhere.mesh, elsewhere.home.path) == ("local", tmp_path / "other")


def test_the_login(tmp_path: Path) -> None:
    for name in ("a.creds", "b.nkey", "c.pem"):
        (tmp_path / name).touch()
    creds, nkey, ca = (str(tmp_path / name) for name in ("a.creds", "b.nkey", "c.pem"))
    by_flag = context_of("--creds", creds, "--nkey", nkey, "--tls-ca", ca)
    by_environment = context_of(NATS_CREDS=creds, NATS_NKEY=nkey, NATS_CA=ca)
    for context in (by_flag, by_environment):
        options = context.bus_options("me", "busmesh.local.inbox.me")
        assert (str(options.credentials), str(options.nkey), str(options.tls_ca)) == (creds, nkey, ca)
        assert (options.name, options.inbox_prefix) == ("me", "busmesh.local.inbox.me")
    assert str(context_of(BUSMESH_CREDS=creds, NATS_CREDS=nkey).credentials) == creds


@pytest.mark.parametrize("bus", ["http://x", "nats://a b", "nats://a\nb", "nats://a,ftp://b"])
def test_what_is_no_bus_is_refused(bus: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(bus=bus)
    assert caught.value.code == "BM3010"


@pytest.mark.parametrize("mesh", ["*", "a.b", "A", ">"])
def test_what_is_no_mesh_is_refused(mesh: str) -> None:
    with pytest.raises(InvalidName):
        resolve(mesh=mesh)


def test_a_broken_context_is_an_error_only_for_who_needs_it(stored: Home) -> None:
    (stored.path / "context.json").write_text("{")
    with pytest.raises(IdentityError):
        resolve(mesh="m")
    assert resolve(mesh="m", bus="b:1").bus_url == "nats://b:1"


def test_run_returns_what_the_coroutine_does() -> None:
    async def answer() -> int:
        return 42

    assert run(answer()) == 42


def test_an_interrupt_is_heard_by_code_that_swallows_the_first() -> None:
    async def deaf() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        await asyncio.sleep(10)

    async def scenario() -> None:
        task = asyncio.create_task(_heard(deaf()))
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scenario())

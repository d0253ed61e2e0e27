"""``busmesh identity token`` as a person types it, in a home of an authority that nobody runs."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from busmesh.authority.founding import found
from busmesh.authority.locking import announce_bus, lock_bus
from busmesh.bus.jwt import claims_of
from busmesh.cli.main import main
from busmesh.identity.store import Context, Home, read_join_ticket

DAY_S = 86400.0
Said = tuple[int, str, str]
Type = Callable[..., Said]


@pytest.fixture
def home(busmesh_home: Path) -> Home:
    home = Home(busmesh_home)
    found(home, "local", "ann", time.time())
    lock_bus(home, "local")
    announce_bus(home, "local", "tls://bus.example.org:4222", mesh_tls=True)
    return home


@pytest.fixture
def token(capsys: pytest.CaptureFixture[str]) -> Type:
    """Type ``busmesh identity token WORDS``."""

    def typed(*words: str) -> Said:
        capsys.readouterr()
        status = main(["identity", "token", *words])
        return status, *capsys.readouterr()

    return typed


def test_create_makes_all_that_another_machine_needs(home: Home, token: Type) -> None:
    status, said, complaint = token("create", "orders.shop", "--expires", "1h", "--description", "for bob")
    assert (status, complaint) == (0, "")
    made = json.loads(said)
    file = Path(made["file"])
    ticket = read_join_ticket(file)
    assert ticket.token.reveal() not in said
    assert (ticket.bus, made["bus"]) == ("tls://bus.example.org:4222",) * 2
    assert ticket.roots == home.trust("local").certificates().decode().strip()
    assert claims_of(ticket.login)["exp"] == pytest.approx(time.time() + 3600, abs=10)
    assert claims_of(ticket.login)["sub"] == ticket.token.bus_key().public
    assert {stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)} == {0o600, 0o700}
    grant = home.grants()[made["token"]]
    assert grant.token == ticket.token
    assert (grant.service, grant.namespace, grant.description) == ("orders", "shop", "for bob")
    assert grant.expires == pytest.approx(time.time() + 3600, abs=10)


@pytest.mark.parametrize(
    ("words", "service", "namespace"),
    [
        (("orders",), "orders", "default"),
        (("orders", "--namespace", "shop"), "orders", "shop"),
        (("shop-*.*",), "shop-*", "*"),
        (("--namespace", "shop"), "*", "shop"),
    ],
)
def test_whom_it_is_for(
    home: Home, token: Type, words: tuple[str, ...], service: str, namespace: str
) -> None:
    made = json.loads(token("create", *words)[1])
    grant = home.grants()[made["token"]]
    assert (grant.service, grant.namespace) == (service, namespace)
    assert grant.expires == pytest.approx(time.time() + DAY_S, abs=10), "a token that is forgotten ends"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "BM4214"),
        (("orders.shop", "--namespace", "shop"), "BM4214"),
        (("Orders",), "BM4211"),
        (("orders?",), "BM4211"),
        (("[a-z]rders",), "BM4211"),
        (("a.b.c",), "BM4211"),
        (("orders", "--description", "a\nb"), "BM4211"),
        (("orders", "--bus", "http://bus"), "BM3010"),
        (("orders", "--file", "no/such/folder"), "BM4215"),
    ],
)
def test_what_nobody_can_be_meant_by_is_refused(
    home: Home, token: Type, words: tuple[str, ...], code: str
) -> None:
    before = home.grants()
    status, _, complaint = token("create", *words)
    assert status == 2
    assert code in complaint
    assert home.grants() == before
    assert not (home.path / "tokens").exists()


def test_a_file_or_stdout_or_another_way_to_the_bus(home: Home, token: Type, tmp_path: Path) -> None:
    status, said, _ = token("create", "orders", "--file", str(tmp_path / "orders.token"))
    assert status == 0
    assert stat.S_IMODE((tmp_path / "orders.token").stat().st_mode) == 0o600
    assert read_join_ticket(tmp_path / "orders.token").token.id == json.loads(said)["token"]
    status, said, _ = token("create", "orders", "--expires", "never", "--bus", "bus.other", "--file", "-")
    assert status == 0
    ticket = read_join_ticket(written(tmp_path / "piped", said))
    assert ticket.bus == "nats://bus.other"
    assert home.grants()[ticket.token.id].expires is None
    assert "exp" not in claims_of(ticket.login)
    assert not (home.path / "tokens").exists()


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_an_open_bus_has_no_logins(busmesh_home: Path, token: Type) -> None:
    home = Home(busmesh_home)
    found(home, "local", "ann", time.time())
    home.save_context(Context("nats://10.0.0.1:4222", "local"))
    ticket = read_join_ticket(Path(json.loads(token("create", "orders")[1])["file"]))
    assert (ticket.login, ticket.roots, ticket.bus) == ("", "", "nats://10.0.0.1:4222")


def test_list_tells_everything_but_the_secret(home: Home, token: Type) -> None:
    made = json.loads(token("create", "orders", "--description", "for bob")[1])["token"]
    status, said, _ = token("list", "-o", "json")
    assert status == 0
    first, second = [json.loads(line) for line in said.splitlines()]
    assert (first["token"], first["own"], first["service"], first["expires"]) == (
        home.join_token().id,
        True,
        "*",
        None,
    )
    assert (second["token"], second["own"], second["state"]) == (made, False, "valid")
    assert (second["service"], second["namespace"], second["description"]) == ("orders", "default", "for bob")
    assert second["age_s"] <= 10
    assert 86390 <= second["left_s"] <= 86400
    grant = home.grants()[made]
    home.save_grant(replace(grant, expires=time.time() - 1))
    _, table, _ = token("list", "-o", "table")
    assert table.splitlines()[0].split() == [
        *("TOKEN", "SERVICE", "NAMESPACE", "AGE", "EXPIRES", "STATE", "DESCRIPTION")
    ]
    assert "expired" in table
    assert "never" in table
    secrets = [each.token.reveal().rpartition(".")[2] for each in home.grants().values()]
    assert [secret for secret in secrets if secret in said + table] == []


def test_narrow_takes_away_and_never_gives(home: Home, token: Type) -> None:
    own = home.join_token().id
    status, said, _ = token("narrow", own, "shop-*", "--namespace", "shop", "--expires", "2h")
    assert status == 0
    assert json.loads(said)["service"] == "shop-*"
    held = home.grants()[own]
    assert (held.service, held.namespace) == ("shop-*", "shop")
    assert held.expires == pytest.approx(time.time() + 7200, abs=10)
    for words in (("*", "--namespace", "shop"), ("shop-a",), ("--expires", "3h"), ("shop*.shop",)):
        status, _, complaint = token("narrow", own, *words)
        assert (status, "BM4213" in complaint) == (2, True), words
    assert home.grants()[own] == held
    assert token("narrow", own, "shop-a.shop", "--expires", "never")[0] == 0
    assert home.grants()[own] == replace(held, service="shop-a"), "never is no narrower than it was"
    assert token("narrow", own)[0] == 2


def test_delete_forgets_token_and_file(home: Home, token: Type) -> None:
    made = json.loads(token("create", "orders")[1])
    status, said, complaint = token("delete", made["token"])
    assert (status, complaint) == (0, "")
    assert made["token"] in said
    assert made["token"] not in home.grants()
    assert not Path(made["file"]).exists()
    assert token("delete", made["token"])[0] == 6
    status, _, complaint = token("delete", "../root")
    assert (status, "BM4212" in complaint) == (6, True)
    assert token("delete")[0] == 2


def test_of_several_none_is_deleted_if_one_is_not_there(home: Home, token: Type) -> None:
    made = json.loads(token("create", "orders")[1])["token"]
    assert token("delete", made, "00000000")[0] == 6
    assert made in home.grants()


def test_delete_expired(home: Home, token: Type) -> None:
    made = [json.loads(token("create", "orders")[1])["token"] for _ in range(2)]
    home.save_grant(replace(home.grants()[made[0]], expires=time.time() - 1))
    assert token("delete", "--expired")[0] == 0
    assert home.grants().keys() == {made[1], home.join_token().id}


def test_the_homes_own_token_is_replaced_by_one_that_allows_the_same(home: Home, token: Type) -> None:
    before = home.join_ticket()
    home.save_grant(replace(home.grants()[before.token.id], service="shop-*"))
    status, _, complaint = token("delete", before.token.id)
    assert status == 0
    after = home.join_ticket()
    assert after.token.id in complaint
    assert after.token.secret != before.token.secret
    assert (after.bus, after.roots) == (before.bus, before.roots)
    assert claims_of(after.login)["sub"] == after.token.bus_key().public
    assert {name: grant.service for name, grant in home.grants().items()} == {after.token.id: "shop-*"}


@pytest.mark.parametrize("words", [("create", "orders"), ("list",), ("delete", "a"), ("narrow", "a", "b")])
def test_only_the_home_of_an_authority_has_tokens(
    busmesh_home: Path, token: Type, words: tuple[str, ...]
) -> None:
    status, _, complaint = token(*words)
    assert status == 6
    assert "BM4210" in complaint
    assert "--home" in complaint

"""Threats to how agents are run: floods, what is written down, who reads pages and keys, old processes."""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import secrets
import signal
import socket
import stat
import threading
import time
import tomllib
from contextlib import ExitStack, closing
from pathlib import Path

import msgpack

from tests.security.rogue import Rogue
from tests.support.bars import times
from tests.support.client import Caller, count_by
from tests.support.mesh import eventually
from tests.support.processes import ROOT
from tests.threats.raw import exchange, status
from tests.threats.stage import RELAY, Stage, statistics

SEEN_S = 2.0


def test_t25_floods_of_handshakes_and_registrations(stage: Stage) -> None:
    over = threading.Event()

    def flood() -> None:
        number = 0
        while not over.wait(0.02):  # 5,000 a second
            for _ in range(100):
                number += 1
                junk = msgpack.packb([1, number.to_bytes(16), b"junk" * 50])
                for subject in ("session.orders-0", "authority.enrol", "member.default.orders.orders-0"):
                    stage.rogue.publish(f"busmesh.local.{subject}", junk, reply=b"busmesh.local.inbox.rogue")

    def times(requests: int) -> list[float]:
        found = []
        with stage.caller() as caller:
            for _ in range(requests):
                began = time.monotonic()
                assert caller.call("/")[0] == 200
                found.append(time.monotonic() - began)
        return found

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert len(times(300)) == 300
        newcomer = stage.mesh.agent("batch", f"batch-{secrets.token_hex(3)}", "--upstreams", "orders")
        assert count_by(newcomer.outbound, "orders", 20) == {"orders-0": 20}
    finally:
        over.set()
        thread.join()
    statistics = stage.orders.page("/members")["statistics"]["handshakes"]
    assert statistics["half_way"] <= 512
    assert len(stage.orders.agent.stderr) < 50_000
    assert len(stage.mesh.authority.stderr) < 50_000


def series(stage: Stage) -> int:
    connection = http.client.HTTPConnection(stage.shop.admin, timeout=5)
    with closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return sum(not line.startswith("#") for line in text.splitlines())


def test_t26_paths_and_names_fill_neither_logs_nor_metrics(stage: Stage) -> None:
    heard: list[bytes] = []
    with Rogue(stage.bus.port, "busmesh.local.telemetry.>", lambda *message: heard.append(message[3])):
        with stage.caller() as caller:
            assert caller.call("/first")[0] == 200
            before, log = series(stage), len(stage.shop.agent.stderr)
            for number in range(times(2000, 10_000)):
                path = f"/{secrets.token_hex(8)}?{secrets.token_hex(8)}"
                assert caller.call(path, user_agent=f"\x9b31m{number} <b>'\"\\")[0] == 200
        for escape in (b"\x1b[31m", b"\r\nINFO forged"):
            answer = exchange(stage.address(), b"GET /%b HTTP/1.1\r\nHost: orders\r\n\r\n" % escape)
            assert status(answer) == 400
        time.sleep(SEEN_S)
        assert series(stage) <= before + 10
        assert len(stage.shop.agent.stderr) - log < 2000
    assert heard
    for payload in heard:
        json.loads(payload)
        assert b"\n" not in payload
        assert len(payload) <= 1024 * 1024


def test_t26_a_request_is_one_record_whatever_it_holds(stage: Stage) -> None:
    told = stage.mesh.agent("told", "told-1", "--upstreams", "orders", "--telemetry-access-log", "1")
    strange = ["%0d%0aINFO%20forged", "%1b%5b31m", 'a","status":200,"', "%c2%85%e2%80%a8", "%00", "<b>'"]
    records: list[dict[str, object]] = []

    def hear(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        assert b"\n" not in payload
        records.extend(json.loads(payload)["events"])

    with (
        Rogue(stage.bus.port, "busmesh.local.telemetry.access.default.told.told-1", hear) as rogue,
        closing(Caller(told.outbound, "orders")) as caller,
    ):
        for number in range(36):
            path = f"/{number}/{strange[number % len(strange)]}"
            assert caller.call(path, user_agent=f"\x9b31m{number} <b>'\"\\")[0] == 200
        eventually(lambda: len(records) >= 36, "each is told")
        time.sleep(SEEN_S)
        rogue.flush()
    assert [record["status"] for record in records] == [200] * 36
    assert len({record["trace_id"] for record in records}) == 36


def test_t27_secrets_are_written_down_nowhere(stage: Stage) -> None:
    secret = f"canary{secrets.token_hex(12)}"
    heard: list[bytes] = []
    options = ("--upstreams", "orders", "--telemetry-access-log", "1", "--telemetry-tracing", "1")
    told = stage.mesh.agent("told", "told-0", *options, "--log-level", "debug")
    with (
        Rogue(stage.bus.port, ">", lambda *message: heard.append(b"".join(message))),
        closing(Caller(told.outbound, "orders")) as caller,
    ):
        for _ in range(20):
            code, answer, _ = caller.call(
                f"/?token={secret}",
                method="POST",
                body=secret.encode(),
                authorization=f"Bearer {secret}",
                cookie=f"session={secret}",
            )
            assert (code, answer["echo"]) == (200, secret)
        pages = [json.dumps(told.page(page)) for page in ("/config", "/members", "/policies", "/breakers")]
        time.sleep(SEEN_S)
    everything = [*heard, *(page.encode() for page in pages), told.agent.stderr.encode()]
    assert len(heard) > 50
    assert not [text for text in everything if secret.encode() in text]


def test_t28_the_admin_endpoint_is_for_this_machine(stage: Stage) -> None:
    def ask(method: str, path: str, host: str, **headers: str) -> int:
        connection = http.client.HTTPConnection(stage.shop.admin, timeout=5)
        with closing(connection):
            connection.request(method, path, headers={"Host": host, **headers})
            answer = connection.getresponse()
            assert answer.getheader("access-control-allow-origin") is None
            return answer.status

    here = stage.shop.admin
    assert here.startswith("127.0.0.1:")
    for page in ("/readyz", "/config", "/members", "/policies", "/breakers", "/certs", "/metrics"):
        assert ask("GET", page, here) == 200
        assert ask("GET", page, "evil.example") == 403, "a name that was bound to loopback"
        assert ask("GET", page, f"evil.example:{here.rpartition(':')[2]}") == 403
        assert ask("GET", page, here, Origin="http://evil.example") == 403
        assert ask("DELETE", page, here) == 405
    for path in (
        "/",
        "/..",
        "/../etc/passwd",
        "//config",
        "/config/",
        "/%2e%2e",
        "/" + "a" * 5000,
    ):
        assert 400 <= ask("GET", path, here) < 500, path


def test_t29_keys_are_for_their_owner_alone(stage: Stage) -> None:
    home = stage.mesh.home
    for path in [home, *home.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    keys = [path for path in home.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert len(keys) >= 4
    token = (home / "join-token").read_bytes().strip() if (home / "join-token").exists() else b"PRIVATE KEY"
    for process in (stage.shop.agent, stage.orders.agent, stage.mesh.authority):
        for page in ("cmdline", "environ"):
            text = Path(f"/proc/{process.pid}/{page}").read_bytes()
            assert b"PRIVATE KEY" not in text
            assert token not in text
    gone = stage.mesh.agent("gone", "gone-0")
    assert gone.agent.terminate() == 0
    [key] = (home / "agents" / "gone-0").rglob("*.key")
    key.chmod(0o644)
    try:
        refused = stage.mesh.run(
            *("agent", "run", "--service", "gone", "--instance", "gone-0", "--outbound", "127.0.0.1:0"),
            *("--admin", "127.0.0.1:0"),
            check=False,
        )
        assert refused.returncode != 0
        assert str(key) in refused.stderr
        assert "chmod 600" in refused.stderr
    finally:
        key.chmod(0o600)


RULE = """\
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: %s}
spec: {hosts: [orders]%s}
"""


def listening(pid: int) -> set[str]:
    """Return the addresses where a process takes connections."""
    own = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                host, _, port = fields[1].partition(":")
                found.add(
                    f"{socket.inet_ntoa(bytes.fromhex(host)[::-1])}:{int(port, 16)}"
                    if table == "tcp"
                    else host
                )
    return found


def test_t30_nothing_comes_in_without_a_session_and_a_rule(stage: Stage) -> None:
    assert listening(stage.orders.agent.pid) == {stage.orders.outbound, stage.orders.admin}, (
        "no way in but the bus"
    )
    hits, before = stage.hits(), statistics(stage.orders, "inbound")
    plain = b"GET / HTTP/1.1\r\nHost: orders\r\nx-id: around\r\n\r\n"
    for payload in (plain, b"\x01\x01" + plain, bytes(40) + plain):
        for _ in range(50):
            stage.rogue.publish(RELAY, payload, reply=b"busmesh.local.reply.shop-0.0._1")
    stage.rogue.flush()
    expected = {"bad_frames": before["bad_frames"] + 100, "unknown_sessions": before["unknown_sessions"] + 50}
    eventually(lambda: expected.items() <= statistics(stage.orders, "inbound").items(), "each is counted")

    def ask(name: str) -> tuple[int, str, str]:
        with stage.caller() as caller:
            code, answer, headers = caller.call("/", x_id=name)
        return code, headers.get("x-busmesh-flags", ""), answer.get("message", "")

    allowed = ", rules: [{from: [{source: {principals: [local/ns/default/svc/%s]}}]}]"
    try:
        for rules in ((RULE % ("nothing", ""),), (RULE % ("another", allowed % "another"),)):
            stage.mesh.publish(*rules)
            code, flags, message = ask("around")
            assert (code, flags) == (403, "RBAC"), "denied by default, as no rule allows it"
            assert "nothing" not in message, "who is refused does not hear by which rule"
            assert "another" not in message
        refused = statistics(stage.orders, "inbound")["refused"] - before["refused"]
        assert refused == 2
        assert stage.hits() == hits
        stage.mesh.publish(RULE % ("shop", allowed % "shop"))
        assert ask("allowed")[0] == 200, "with a rule it is served"
    finally:
        names = [f"Authorization/{name}" for name in ("nothing", "another", "shop")]
        stage.mesh.run("policy", "delete", *names)
    assert stage.hits() - hits == {"allowed": 1}


def test_t31_a_process_from_before_comes_back_to_nothing(stage: Stage) -> None:
    with ExitStack() as stack:
        old = stage.mesh.instance("stock", "stock-0")
        caller = stack.enter_context(closing(Caller(stage.shop.outbound, "stock")))
        assert caller.call("/", x_id="first")[0] == 200
        os.kill(old.agent.pid, signal.SIGSTOP)
        stack.callback(old.agent.kill)
        new_application, url, record = stage.mesh.recorder("stock-0-new")
        elsewhere = stage.mesh.directory / "another-machine"
        elsewhere.mkdir(mode=0o700)
        new = stage.mesh.agent("stock", "stock-0", application=url, home=elsewhere)
        new.record = record
        eventually(lambda: (caller.call("/")[1] or {}).get("name") == "stock-0-new", "the new process serves")
        time.sleep(times(1, 30))
        os.kill(old.agent.pid, signal.SIGCONT)
        before = len(old.seen())
        until = time.monotonic() + 3
        while time.monotonic() < until:
            code, answer, _ = caller.call("/")
            assert (code, answer["name"]) == (200, "stock-0-new")
            time.sleep(0.01)
        assert len(old.seen()) == before
        assert new_application.running
        assert "another process has taken this instance's name" in json.dumps(old.page("/readyz"))


def test_t31_a_frozen_process_that_nobody_replaced_registers_anew(stage: Stage) -> None:
    with ExitStack() as stack:
        frozen, other = (stage.mesh.instance("shelf", f"shelf-{number}") for number in range(2))
        caller = stack.enter_context(closing(Caller(stage.shop.outbound, "shelf")))

        def serves(name: str) -> bool:
            return (caller.call("/")[1] or {}).get("name") == name

        eventually(lambda: serves("shelf-0"), "it serves")
        os.kill(frozen.agent.pid, signal.SIGSTOP)
        eventually(lambda: all(serves("shelf-1") for _ in range(20)), "the other one serves alone")
        before = len(frozen.seen())
        time.sleep(times(1, 30))
        assert all(serves("shelf-1") for _ in range(50))
        assert len(frozen.seen()) == before
        os.kill(frozen.agent.pid, signal.SIGCONT)
        eventually(lambda: serves("shelf-0"), "it serves again")
        for instance in (frozen, other):
            assert instance.agent.terminate() == 0


def test_t32_few_dependencies_and_nothing_that_runs_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) <= 15
    assert all(re.search(r"[><=]", each.partition(";")[0]) for each in project["dependencies"])
    forbidden = {"eval", "exec", "compile", "__import__"}
    for path in (ROOT / "busmesh").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in forbidden:
                    raise AssertionError(f"{path}:{node.lineno} calls {name}")
                case ast.Import(names=names):
                    assert not {"pickle", "marshal", "shelve"} & {each.name for each in names}, path
                case ast.ImportFrom(module=str(module)):
                    assert module.partition(".")[0] not in ("pickle", "marshal", "shelve"), path
                case ast.keyword(arg="shell"):
                    raise AssertionError(f"{path}:{node.value.lineno} runs a shell")
                case ast.Attribute(value=ast.Name(id="yaml"), attr=str(attr)):
                    assert attr not in ("load", "unsafe_load", "full_load", "load_all"), path

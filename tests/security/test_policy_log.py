"""Whoever may write to the log on the bus can spoil it for a while, and never for good."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import ExitStack
from pathlib import Path
from queue import Queue

import pytest

from busmesh.bus.messages import Message
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import LogUnavailable, PolicyLog
from busmesh.names import Subjects
from tests.security.rogue import Rogue
from tests.support.bus import NatsServer
from tests.support.mesh import Instance, Mesh, eventually

STREAM = "BUSMESH_local_POLICY"
ROUTE = """
apiVersion: busmesh/v1
kind: Route
metadata: {{name: orders}}
spec:
  hosts: [orders]
  http:
  - timeout: {seconds}s
    route:
    - destination: {{host: orders}}
"""


def jetstream(bus: NatsServer, verb: str, body: object = None) -> dict[str, object]:
    answers: Queue[bytes] = Queue()
    with Rogue(bus.port, "rogue.inbox", lambda *message: answers.put(message[3])) as rogue:
        payload = json.dumps(body).encode() if body else b""
        rogue.publish(f"$JS.API.{verb}.{STREAM}", payload, reply=b"rogue.inbox")
        found: dict[str, object] = json.loads(answers.get(timeout=5))
    return found


def length(bus: NatsServer) -> int:
    state = jetstream(bus, "STREAM.INFO")["state"]
    assert isinstance(state, dict)
    return int(state["last_seq"])


def revision(agent: Instance) -> int:
    return int(agent.page("/policies")["revision"])


def test_forged_entries_block_no_later_revision(tmp_path: Path, nats_server: NatsServer) -> None:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(tmp_path, nats_server))
        mesh.agent("orders", "orders-0")
        for seconds in (3, 4):
            mesh.publish(ROUTE.format(seconds=seconds))
        writer = stack.enter_context(Rogue(nats_server.port))
        junk = json.dumps({"message": {"data": base64.b64encode(b"junk").decode()}}).encode()

        def forge(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
            if reply:
                writer.publish(reply, junk)

        with Rogue(nats_server.port, "$JS.API.STREAM.MSG.GET.>", forge):
            # A race with JetStream, which the forger mostly wins: go on until it has.
            agents: list[Instance] = []
            while len(agents) < 20 and not any(revision(agent) < 2 for agent in agents):
                agents.append(mesh.agent("shopper", f"shopper-{len(agents)}"))
            assert any(revision(agent) < 2 for agent in agents)
        mesh.publish(ROUTE.format(seconds=5))
        assert [revision(agent) for agent in agents] == [3] * len(agents)


def test_a_log_made_anew_with_more_in_it_is_refilled(tmp_path: Path, nats_server: NatsServer) -> None:
    with Mesh(tmp_path, nats_server) as mesh:
        agent = mesh.agent("shopper", "shopper-0")
        for seconds in (3, 4):
            mesh.publish(ROUTE.format(seconds=seconds))
        reconnect(nats_server, agent)  # the agent has read its own revisions in the log
        jetstream(nats_server, "STREAM.DELETE")
        jetstream(
            nats_server, "STREAM.CREATE", {"name": STREAM, "subjects": ["busmesh.local.policy.revision"]}
        )
        with Rogue(nats_server.port) as rogue:
            for _ in range(5):
                rogue.publish("busmesh.local.policy.revision", b"junk")
            rogue.flush()
        assert length(nats_server) == 5
        reconnect(nats_server, agent)
        eventually(lambda: length(nats_server) == 7, "the agent gives its revisions back")
        mesh.publish(ROUTE.format(seconds=5))
        assert revision(agent) == 3


def reconnect(bus: NatsServer, agent: Instance) -> None:
    before = agent.page("/config")["bus"]["reconnects"]
    handled = agent.page("/config")["actors"]["policies"]["taken"]
    bus.restart()
    eventually(lambda: agent.page("/config")["bus"]["reconnects"] > before, "the agent is back")
    eventually(
        lambda: agent.page("/config")["actors"]["policies"]["taken"] > handled, "it looks at the log again"
    )


class Liar:
    """A bus on which somebody else answers first."""

    options = BusOptions((), "liar", "inbox")

    def __init__(self, answer: object) -> None:
        self._answer = json.dumps(answer).encode()

    async def request(self, subject: str, payload: bytes = b"", **options: object) -> Message:
        return Message("inbox", self._answer)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"state": 1},
        {"state": {}},
        {"state": {"last_seq": "x"}},
        {"state": {"last_seq": None}},
        {"error": "no"},
        {"error": []},
        [],
    ],
)
def test_an_answer_that_is_none_is_said_to_be_none(answer: object) -> None:
    log = PolicyLog(Liar(answer), Subjects("local"))  # type: ignore[arg-type]  # a bus as far as the log sees
    with pytest.raises(LogUnavailable):
        asyncio.run(log.last())

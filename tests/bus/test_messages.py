"""Publishing, subscribing and asking through a real server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from busmesh.bus.address import SubjectAddress
from busmesh.bus.bus import Bus
from busmesh.bus.client import Handler
from busmesh.bus.messages import is_no_responders
from busmesh.errors import BusUnavailable, Denied, UsageError
from tests.bus.conftest import Run
from tests.bus.rig import Inbox, Proxy, RawClient, congest, connected, options, until
from tests.support.bars import bar
from tests.support.bus import NatsServer


def _responder(bus: Bus, answers: int = 1) -> Handler:
    def answer(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        for number in range(answers):
            bus.publish(reply.decode(), b"%b %d" % (payload, number))

    return answer


# -- delivery --------------------------------------------------------------------------------------


def test_a_message_arrives_with_subject_reply_payload_and_headers(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("a.*", inbox)
            bus.publish("a.b", b"payload", "back.here")
            bus.publish("a.c", b"")
            with RawClient(nats_server) as other:
                await bus.round_trip()
                other.publish_with_headers(
                    b"a.d", b"NATS/1.0\r\nk: v\r\n\r\n", b"with headers", reply=b"back"
                )
            await until(lambda: len(inbox.messages) == 3)
            assert inbox.messages == [
                (b"a.b", b"back.here", b"payload", b""),
                (b"a.c", b"", b"", b""),
                (b"a.d", b"back", b"with headers", b"NATS/1.0\r\nk: v\r\n\r\n"),
            ]

    run(main())


def test_a_hundred_thousand_small_messages_arrive_in_order(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        count = 100_000
        inbox = Inbox()
        async with connected(nats_server.url) as receiver, connected(nats_server.url) as sender:
            await receiver.subscribe("a", inbox)
            await receiver.round_trip()
            for number in range(count):
                sender.publish("a", b"%d" % number)
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(inbox.messages) == count, 20)
            assert inbox.payloads == [b"%d" % number for number in range(count)]

    run(main())


def test_messages_of_the_greatest_size_arrive_whole(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            assert bus.max_payload == 1024 * 1024
            await bus.subscribe("a", inbox)
            sent = [bytes([number]) * bus.max_payload for number in range(8)]
            for payload in sent:
                bus.publish("a", payload)
                bus.publish("a", b"small")
            await until(lambda: len(inbox.messages) == 16)
            assert inbox.payloads[::2] == sent

    run(main())


def test_more_than_the_server_takes_is_refused_before_it_closes_the_connection(
    tmp_path: Path, run: Run
) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "bus", config="max_payload: 2048") as server:
            async with connected(server.url) as bus:
                assert bus.max_payload == 2048
                with pytest.raises(UsageError, match="BM3005"):
                    bus.publish("a", b"x" * 2049)
                with pytest.raises(UsageError, match="BM3005"):
                    await bus.request("a", b"x" * 2049)
                # Headers count as payload.
                with pytest.raises(UsageError, match="BM3005"):
                    await bus.request("a", b"x" * 2040, headers={"Name": "value"})
                assert await bus.round_trip() < 1
                assert bus.reconnects == 0
                assert bus.statistics()["waiting"] == 0

    run(main())


def test_a_round_trip_proves_that_the_server_has_the_subscription(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        with RawClient(nats_server) as other:
            async with connected(nats_server.url) as bus:
                for number in range(20):
                    inbox = Inbox()
                    await bus.subscribe(f"a.{number}", inbox)
                    await bus.round_trip()
                    other.publish(b"a.%d" % number, b"heard")
                    other.round_trip()
                    await until(lambda: inbox.payloads == [b"heard"])  # noqa: B023 - awaited here

    run(main())


def test_what_is_published_after_subscribing_is_heard_although_more_went_before(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            for number in range(20):
                inbox = Inbox()
                bus.publish("elsewhere", b"the write is scheduled already")
                await bus.subscribe(f"a.{number}", inbox)
                bus.publish(f"a.{number}", b"heard")
                await until(lambda: inbox.payloads == [b"heard"])  # noqa: B023 - awaited here

    run(main())


def test_unsubscribing_ends_the_delivery_at_the_server_too(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        kept, given_up = Inbox(), Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("a", kept)
            number = await bus.subscribe("a", given_up)
            await bus.round_trip()
            before = nats_server.monitor("connz?subs=1")["connections"][0]["subscriptions"]
            await bus.unsubscribe(number)
            await bus.unsubscribe(number)
            bus.publish("a", b"x")
            await until(lambda: kept.payloads == [b"x"])
            assert not given_up.messages
            assert nats_server.monitor("connz?subs=1")["connections"][0]["subscriptions"] == before - 1

    run(main())


@pytest.mark.parametrize(
    "subject", ["", "a..b", ".a", "a.", "a b", "a\tb", "a\r\nPUB x 0\r\n", "a\0b", "x" * 2000]
)
def test_what_is_no_subject_reaches_no_wire(nats_server: NatsServer, run: Run, subject: str) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with pytest.raises(UsageError, match="BM1004"):
                await bus.subscribe(subject, Inbox())
            with pytest.raises(UsageError, match="BM1004"):
                bus.publish(subject, b"")
            with pytest.raises(UsageError, match="BM1004"):
                await bus.request(subject, headers={"a": "b"})
            if subject:  # an empty reply is none
                with pytest.raises(UsageError, match="BM1004"):
                    bus.publish("a", b"", subject)
            assert await bus.round_trip() < 1
            assert bus.reconnects == 0
            assert bus.statistics()["subscriptions"] == 1
            assert bus.statistics()["waiting"] == 0

    run(main())


@pytest.mark.parametrize("subject", ["*", ">", "a.*", "a.>", "*.a"])
def test_nobody_publishes_to_a_wildcard(nats_server: NatsServer, run: Run, subject: str) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with pytest.raises(UsageError, match="BM1004"):
                bus.publish(subject, b"")
            with pytest.raises(UsageError, match="BM1004"):
                bus.publish("a", b"", subject)
            await bus.subscribe(subject, Inbox())

    run(main())


# -- outages ---------------------------------------------------------------------------------------


def test_nothing_is_published_while_disconnected_and_nothing_comes_late(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe(">", inbox)
            await bus.round_trip()
            nats_server.kill()
            # The server is dead and nobody has noticed: what is taken now is lost, not kept.
            bus.publish("a", b"unnoticed")
            bus.write(b"PUB a 9\r\nunnoticed\r\n")
            await until(lambda: not bus.connected)
            began = time.monotonic()
            with pytest.raises(BusUnavailable, match="BM3003"):
                bus.publish("a", b"refused")
            with pytest.raises(BusUnavailable, match="BM3003"):
                await bus.request("a", b"refused", timeout=5)
            with pytest.raises(BusUnavailable, match="BM3003"):
                await bus.request("a", b"refused", timeout=5, headers={"a": "b"})
            with pytest.raises(BusUnavailable, match="BM3003"):
                await bus.gather("a", b"refused", timeout=5)
            bus.write(b"PUB a 7\r\ndropped\r\n")
            assert time.monotonic() - began < bar(0.05)
            await asyncio.to_thread(nats_server.restart)
            await until(lambda: bus.connected)
            bus.publish("a", b"fresh")
            await until(lambda: inbox.messages)
            await bus.round_trip()
            assert inbox.payloads == [b"fresh"]
            assert bus.statistics()["waiting"] == 0

    run(main())


@pytest.mark.parametrize("headers", [None, {"Nats-Expected-Last-Sequence": "0"}])
def test_a_request_stuck_behind_a_hanging_link_is_not_delivered_after_it(
    nats_server: NatsServer, run: Run, headers: dict[str, str] | None
) -> None:
    """nats-py would keep what has headers in its own buffer and write it to the next connection."""

    async def main() -> None:
        inbox = Inbox()
        async with Proxy(nats_server) as proxy, connected(nats_server.url) as other:
            await other.subscribe("a", inbox)
            await other.round_trip()
            async with connected(proxy.url) as bus:
                proxy.stall()
                await congest(bus)
                with pytest.raises(BusUnavailable):
                    await bus.request("a", b"stale", timeout=0.2, headers=headers)
                await until(lambda: not bus.connected)
                proxy.drop()
                proxy.heal()
                await until(lambda: bus.connected)
                bus.publish("a", b"fresh")
                await until(lambda: inbox.messages)
                assert inbox.payloads == [b"fresh"]

    run(main())


def test_questions_under_way_fail_at_once_when_the_connection_is_lost(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            await bus.subscribe("silent", Inbox())
            asked = asyncio.create_task(bus.request("silent", timeout=30))
            gathering = asyncio.create_task(bus.gather("silent", timeout=30))
            await until(lambda: bus.statistics()["waiting"] == 2)
            await bus.round_trip()
            nats_server.kill()
            began = time.monotonic()
            with pytest.raises(BusUnavailable, match="BM3003"):
                await asked
            with pytest.raises(BusUnavailable, match="BM3003"):
                await gathering
            assert time.monotonic() - began < bar(0.5)
            assert bus.statistics()["waiting"] == 0

    run(main())


def test_questions_under_way_fail_at_once_when_the_bus_is_closed(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            await bus.subscribe("silent", Inbox())
            asked = asyncio.create_task(bus.request("silent", timeout=30))
            await until(lambda: bus.statistics()["waiting"] == 1)
        with pytest.raises(BusUnavailable, match="BM3003"):
            await asked

    run(main())


def test_subscriptions_survive_reconnects_and_can_be_ended_after_them(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        stays, ends = Inbox(), Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("a", stays)
            number = await bus.subscribe("a", ends)
            for _ in range(2):
                nats_server.kill()
                await until(lambda: not bus.connected)
                await asyncio.to_thread(nats_server.restart)
                await until(lambda: bus.connected)
            bus.publish("a", b"1")
            await until(lambda: stays.payloads == ends.payloads == [b"1"])
            await bus.unsubscribe(number)
            bus.publish("a", b"2")
            await until(lambda: stays.payloads == [b"1", b"2"])
            await bus.round_trip()
            assert ends.payloads == [b"1"]

    run(main())


@pytest.mark.parametrize("how", ["reconnected", "built anew"])
def test_what_is_subscribed_and_ended_during_an_outage_counts_after_it(
    nats_server: NatsServer, run: Run, how: str
) -> None:
    async def main() -> None:
        before, during, both = Inbox(), Inbox(), Inbox()
        async with connected(nats_server.url) as bus:
            number = await bus.subscribe("a", before)
            await bus.round_trip()
            nats_server.kill()
            await until(lambda: not bus.connected)
            if how == "built anew":
                assert bus._client is not None
                await bus._client.close()
            await bus.unsubscribe(number)
            await bus.subscribe("a", during)
            await bus.unsubscribe(await bus.subscribe("a", both))
            await asyncio.to_thread(nats_server.restart)
            await until(lambda: bus.connected)
            bus.publish("a", b"1")
            await until(lambda: during.messages)
            await bus.round_trip()
            assert during.payloads == [b"1"]
            assert not before.messages
            assert not both.messages
            assert nats_server.monitor("connz?subs=1")["connections"][0]["subscriptions"] == 2

    run(main())


# -- asking ----------------------------------------------------------------------------------------


def test_a_question_is_answered(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus, connected(nats_server.url) as other:
            await other.subscribe("q", _responder(other))
            await other.round_trip()
            answers = await asyncio.gather(*(bus.request("q", b"%d" % n, timeout=5) for n in range(200)))
            assert [answer.payload for answer in answers] == [b"%d 0" % n for n in range(200)]
            assert bus.statistics()["waiting"] == 0

    run(main())


def test_all_answers_are_gathered(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            for _ in range(3):
                await bus.subscribe("q", _responder(bus, 2))
            answers = await bus.gather("q", b"x", timeout=0.1)
            assert sorted(answer.payload for answer in answers) == [b"x 0"] * 3 + [b"x 1"] * 3
            began = time.monotonic()
            assert await bus.gather("nobody", timeout=5) == []
            assert time.monotonic() - began < bar(1)
            assert bus.statistics()["waiting"] == 0

    run(main())


@pytest.mark.parametrize("headers", [None, {"Name": "value"}])
def test_nobody_there_is_told_at_once(
    nats_server: NatsServer, run: Run, headers: dict[str, str] | None
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            began = time.monotonic()
            with pytest.raises(BusUnavailable, match="BM3006 nobody listens on q"):
                await bus.request("q", timeout=10, headers=headers)
            assert time.monotonic() - began < bar(1)

    run(main())


def test_a_question_leaves_nothing_behind_however_it_ends(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            await bus.subscribe("silent", Inbox())

            def waiting() -> object:
                return bus.statistics()["waiting"]

            with pytest.raises(BusUnavailable, match="BM3007"):
                await bus.request("silent", timeout=0.02)
            assert waiting() == 0
            asked = asyncio.create_task(bus.request("silent", timeout=30))
            await until(lambda: waiting() == 1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert waiting() == 0
            with pytest.raises(UsageError):
                await bus.request("silent", b"x" * (bus.max_payload + 1))
            assert waiting() == 0
            await bus.gather("silent", timeout=0.02)
            assert waiting() == 0

    run(main())


def test_headers_arrive_as_they_were_given(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("q", inbox)
            with pytest.raises(BusUnavailable):
                await bus.request("q", b"body", timeout=0.05, headers={"One": "1", "Two": "zwei"})
            (_, reply, payload, headers) = inbox.messages[0]
            assert reply.startswith(bus.inbox.encode())
            assert (payload, headers) == (b"body", b"NATS/1.0\r\nOne: 1\r\nTwo: zwei\r\n\r\n")

    run(main())


@pytest.mark.parametrize(
    "headers", [{"a\r\nb": "c"}, {"a": "b\r\nc: d"}, {"a:b": "c"}, {"": "x"}, {"a": "\0"}]
)
def test_headers_that_would_be_other_headers_are_refused(
    nats_server: NatsServer, run: Run, headers: dict[str, str]
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            with pytest.raises(UsageError, match="BM1005"):
                await bus.request("q", headers=headers)
            assert bus.statistics()["waiting"] == 0

    run(main())


def test_what_the_login_may_not_do_is_told_at_once(tmp_path: Path, run: Run) -> None:
    users = """
    authorization { users: [ { user: me, password: p, permissions: {
      publish: ["allowed.>", "busmesh.>"], subscribe: ["busmesh.>", "allowed.>"] } } ] }
    """

    async def main() -> None:
        with NatsServer(tmp_path / "bus", config=users) as server:
            url = server.url.replace("nats://", "nats://me:p@")
            async with connected(url) as bus:
                await bus.subscribe("allowed.silent", Inbox())
                other = asyncio.create_task(bus.request("allowed.silent", timeout=0.5))
                for subject in ("Denied.Subject", "$JS.API.INFO"):
                    for headers in (None, {"a": "b"}):
                        began = time.monotonic()
                        with pytest.raises(Denied, match="BM3004"):
                            await bus.request(subject, timeout=10, headers=headers)
                        assert time.monotonic() - began < bar(1)
                with pytest.raises(BusUnavailable, match="BM3007"):  # not its fault
                    await other
                await bus.subscribe("denied", Inbox())
                await until(lambda: bus.permission_errors == 5)
                assert bus.connected
                assert await bus.round_trip() < 1

    run(main())


# -- the address of an actor behind a subject --------------------------------------------------------


def test_an_actor_behind_a_subject_is_told_and_asked(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with connected(nats_server.url) as bus:
            await bus.subscribe("told", inbox)
            await bus.subscribe("asked", _responder(bus))
            told = SubjectAddress[str](bus, "told", str.encode)
            assert told.tell("hello")
            await until(lambda: inbox.payloads == [b"hello"])
            assert await SubjectAddress[str](bus, "asked", str.encode).ask("you", 1) == b"you 0"
            assert not told.tell("x" * (bus.max_payload + 1))
            assert told.refused == 1
        assert not told.tell("too late")
        assert told.refused == 2
        with pytest.raises(BusUnavailable):
            await told.ask("too late", 1)

    run(main())


def test_a_bus_that_never_connected_refuses(run: Run) -> None:
    async def main() -> None:
        bus = Bus(options("nats://127.0.0.1:1"))
        with pytest.raises(BusUnavailable, match="BM3003"):
            bus.publish("a", b"")
        with pytest.raises(BusUnavailable, match="BM3003"):
            await bus.round_trip()
        bus.write(b"PUB a 0\r\n\r\n")
        assert bus.max_payload == 1024 * 1024
        assert not bus.congested
        assert "disconnected" in repr(bus)
        await bus.close()

    run(main())


def test_no_responders_is_told_by_its_status() -> None:
    assert is_no_responders(b"NATS/1.0 503\r\n\r\n")
    assert not is_no_responders(b"NATS/1.0\r\nStatus: 503\r\n\r\n")
    assert not is_no_responders(b"")

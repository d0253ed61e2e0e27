"""The policy log on a real JetStream, and on an impostor of one."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from pathlib import Path

import pytest

from busmesh.bus.bus import Bus
from busmesh.bus.messages import Message
from busmesh.bus.options import BusOptions
from busmesh.bus.policylog import MAX_ENTRY, WINDOW, LogUnavailable, PolicyLog, RevisionConflict
from busmesh.errors import BusUnavailable
from busmesh.names import Subjects
from tests.bus.conftest import Run
from tests.bus.rig import Inbox, connected, until
from tests.support.bars import bar
from tests.support.bus import NatsServer

SUBJECTS = Subjects("local")


def _log(bus: Bus) -> PolicyLog:
    return PolicyLog(bus, SUBJECTS)


def test_entries_come_back_in_order_with_their_sequence(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            assert await log.last() == 0
            assert await log.read(0) == []
            await log.ensure()
            await log.ensure()
            assert await log.last() == 0
            entries = [b"first", bytes(range(256)), b"x" * (MAX_ENTRY - 1024)]
            for sequence, entry in enumerate(entries, start=1):
                await log.append(entry, sequence)
            assert await log.last() == 3
            assert await log.read(0) == list(enumerate(entries, start=1))
            assert await log.read(1, 1) == [(2, entries[1])]
            assert await log.read(2) == [(3, entries[2])]
            assert await log.read(3) == []
            assert await log.read(99) == []

    run(main())


def test_a_log_that_exists_is_kept_as_it_is(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            config = {"name": SUBJECTS.policy_stream, "subjects": [SUBJECTS.revision], "max_msgs": 7}
            await bus.request(f"$JS.API.STREAM.CREATE.{SUBJECTS.policy_stream}", json.dumps(config).encode())
            log = _log(bus)
            await log.append(b"entry", 1)
            await log.ensure()
            assert await log.read(0) == [(1, b"entry")]
            info = json.loads((await bus.request(f"$JS.API.STREAM.INFO.{SUBJECTS.policy_stream}")).payload)
            assert info["config"]["max_msgs"] == 7

    run(main())


def test_nobody_takes_an_entry_out_of_the_log(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            await log.append(b"entry", 1)
            for verb, body in (("STREAM.PURGE", b""), ("STREAM.MSG.DELETE", b'{"seq": 1}')):
                answer = await bus.request(f"$JS.API.{verb}.{SUBJECTS.policy_stream}", body)
                assert "error" in json.loads(answer.payload)
            assert await log.read(0) == [(1, b"entry")]

    run(main())


def test_of_two_who_append_at_once_one_wins_and_the_other_is_told(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as one, connected(nats_server.url) as other:
            await _log(one).ensure()
            for sequence in range(1, 11):
                results = await asyncio.gather(
                    _log(one).append(b"one", sequence),
                    _log(other).append(b"other", sequence),
                    return_exceptions=True,
                )
                assert sorted(type(result).__name__ for result in results) == ["NoneType", "RevisionConflict"]
                winner = b"one" if results[0] is None else b"other"
                assert (await _log(one).read(sequence - 1)) == [(sequence, winner)]

    run(main())


@pytest.mark.parametrize("sequence", [1, 2, 4, 99])
def test_an_entry_for_another_place_is_refused(nats_server: NatsServer, run: Run, sequence: int) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            await log.append(b"1", 1)
            await log.append(b"2", 2)
            with pytest.raises(RevisionConflict, match="BM3104"):
                await log.append(b"misplaced", sequence)
            assert await log.last() == 2

    run(main())


def test_junk_that_anybody_appends_is_read_like_any_entry(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            for junk in (b"", b"\xff\xfe", b"junk"):
                bus.publish(SUBJECTS.revision, junk)
            await until_last(log, 3)
            assert await log.read(0) == [(1, b""), (2, b"\xff\xfe"), (3, b"junk")]

    run(main())


async def until_last(log: PolicyLog, sequence: int) -> None:
    for _ in range(500):
        if await log.last() == sequence:
            return
    raise AssertionError(f"the log did not reach {sequence}")


def test_an_entry_too_large_is_refused_with_the_servers_reason(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            with pytest.raises(LogUnavailable, match="BM3103"):
                await log.append(b"x" * (MAX_ENTRY + 1), 1)
            assert await log.last() == 0

    run(main())


def test_a_log_whose_store_was_lost_is_empty_and_can_be_filled_again(
    nats_server: NatsServer, run: Run
) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            for sequence, entry in enumerate((b"1", b"2", b"3"), start=1):
                await log.append(entry, sequence)
            saved = await log.read(0)
            nats_server.kill()
            await until(lambda: not bus.connected)
            await asyncio.to_thread(nats_server.restart, keep_store=False)
            await until(lambda: bus.connected)
            assert await log.last() == 0
            with pytest.raises(LogUnavailable):
                await log.append(b"before there is a stream", 4)
            await log.ensure()
            for sequence, entry in saved:
                await log.append(entry, sequence)
            assert await log.read(0) == saved

    run(main())


def test_a_log_survives_the_kill_of_its_server(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            await log.append(b"1", 1)
            nats_server.kill()
            await until(lambda: not bus.connected)
            with pytest.raises(LogUnavailable, match="BM3101"):
                await log.last()
            await asyncio.to_thread(nats_server.restart)
            await until(lambda: bus.connected)
            assert await log.read(0) == [(1, b"1")]
            await log.append(b"2", 2)

    run(main())


def test_without_jetstream_it_is_told_at_once_and_how_to_mend_it(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "bus", jetstream=False) as server:
            async with connected(server.url) as bus:
                log = _log(bus)
                began = time.monotonic()
                for call in (log.last(), log.ensure(), log.read(0)):
                    with pytest.raises(LogUnavailable, match="BM3101") as caught:
                        await call
                    assert "JetStream" in caught.value.hint
                with pytest.raises(LogUnavailable, match="BM3102"):
                    await log.append(b"entry", 1)
                assert time.monotonic() - began < bar(1)

    run(main())


def test_an_account_without_jetstream_gets_the_same_hint(tmp_path: Path, run: Run) -> None:
    accounts = "accounts { A: { users: [ {user: me, password: p} ] }, B: { jetstream: enabled } }"

    async def main() -> None:
        with NatsServer(tmp_path / "bus", config=accounts) as server:
            async with connected(server.url.replace("nats://", "nats://me:p@")) as bus:
                with pytest.raises(LogUnavailable) as caught:
                    await _log(bus).ensure()
                assert "JetStream" in caught.value.hint

    run(main())


# -- whoever answers in JetStream's place ------------------------------------------------------------

ANSWERS = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "null": b"null",
    "an empty object": b"{}",
    "deep": b"[" * 900_000,
    "deep in an object": b'{"error": ' * 100_000,
    "an error that is none": b'{"error": 7}',
    "an error without a code": b'{"error": {}}',
    "no UTF-8": b'{"state": "\xff"}',
    "a state that is none": b'{"state": 7}',
    "a sequence that is none": b'{"state": {"last_seq": "many"}}',
    "an endless sequence": b'{"state": {"last_seq": 1e999}}',
    "a message that is none": b'{"state": {"last_seq": 1}, "message": 7}',
    "data that are none": b'{"state": {"last_seq": 1}, "message": {"data": 7}}',
    "data in other letters": '{"state": {"last_seq": 1}, "message": {"data": "ä"}}'.encode(),
    "data cut short": b'{"state": {"last_seq": 1}, "message": {"data": "YQ"}}',
    "the acknowledgement of another stream": b'{"stream": "OTHER", "seq": 1}',
    "the acknowledgement of another sequence": b'{"stream": "BUSMESH_local_POLICY", "seq": 2}',
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_impostor_of_jetstream_causes_an_error_of_ours_and_no_other(
    tmp_path: Path, run: Run, answer: bytes
) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "bus", jetstream=False) as server:
            async with connected(server.url) as bus:

                def lie(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
                    bus.publish(reply.decode(), answer)

                await bus.subscribe("$JS.API.>", lie)
                await bus.subscribe(SUBJECTS.revision, lie)
                log = _log(bus)
                if b"last_seq" not in answer or b"many" in answer or b"1e999" in answer:
                    with pytest.raises(LogUnavailable):
                        await log.last()
                with pytest.raises(LogUnavailable):
                    await log.read(0)
                with pytest.raises(LogUnavailable):
                    await log.append(b"entry", 1)
                assert bus.statistics()["handler_errors"] == 0

    run(main())


def test_an_answer_of_anybody_is_no_acknowledgement(tmp_path: Path, run: Run) -> None:
    """Agents listen on the revision subject: without a stream the bus does not say that nobody is there."""

    async def main() -> None:
        with NatsServer(tmp_path / "bus") as server:
            async with connected(server.url) as bus:
                await bus.subscribe(SUBJECTS.revision, Inbox())
                await bus.subscribe("decoy", Inbox())
                with pytest.raises(LogUnavailable, match="BM3102"):
                    await _log(bus).append(b"entry", 1)

    run(main())


def test_an_entry_is_what_was_stored_whatever_its_bytes(nats_server: NatsServer, run: Run) -> None:
    async def main() -> None:
        async with connected(nats_server.url) as bus:
            log = _log(bus)
            await log.ensure()
            entries = [b64encode(b"looks encoded"), b"\r\nPUB x 0\r\n\r\n", b"\0" * 100]
            for sequence, entry in enumerate(entries, start=1):
                await log.append(entry, sequence)
            assert [entry for _, entry in await log.read(0)] == entries

    run(main())


class Counting:
    """Answers as JetStream does for ``last`` entries, out of order, and counts what is asked at once."""

    options = BusOptions((), "counting", "inbox")

    def __init__(self, last: int, broken: int = 0) -> None:
        self.last, self.broken = last, broken
        self.under_way = self.most = 0

    async def request(self, subject: str, payload: bytes = b"", **options: object) -> Message:
        if ".STREAM.INFO." in subject:
            return Message("inbox", json.dumps({"state": {"last_seq": self.last}}).encode())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        sequence = json.loads(payload)["seq"]
        for _ in range(100 - sequence % 100):
            await asyncio.sleep(0)
        self.under_way -= 1
        if sequence == self.broken:
            raise BusUnavailable("no answer", code="BM3007")
        return Message(
            "inbox", json.dumps({"message": {"data": b64encode(b"%d" % sequence).decode()}}).encode()
        )


def test_entries_are_asked_for_several_at_once_and_come_in_order(run: Run) -> None:
    async def main() -> None:
        bus = Counting(3 * WINDOW + 5)
        log = PolicyLog(bus, SUBJECTS)  # type: ignore[arg-type]  # a bus as far as the log sees
        batches = [batch async for batch in log.batches(2, bus.last)]
        found = [entry for batch in batches for entry in batch]
        assert found == [(n, b"%d" % n) for n in range(3, bus.last + 1)]
        assert bus.most == WINDOW
        assert [len(batch) for batch in batches] == [WINDOW, WINDOW, WINDOW, 3], "no more are held at once"

    run(main())


def test_one_that_does_not_come_ends_the_reading_and_leaves_nothing_behind(run: Run) -> None:
    async def main() -> None:
        bus = Counting(2 * WINDOW, broken=WINDOW + 2)
        log = PolicyLog(bus, SUBJECTS)  # type: ignore[arg-type]  # a bus as far as the log sees
        batches = log.batches(0, bus.last)
        assert [sequence for sequence, _ in await anext(batches)] == list(range(1, WINDOW + 1))
        with pytest.raises(LogUnavailable, match="BM3101"):
            await anext(batches)
        assert bus.under_way == 0

    run(main())

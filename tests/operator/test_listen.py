"""Patterns of telemetry, and messages in the order in which they came."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busmesh.errors import UsageError
from busmesh.identity.ca import CertificateAuthority
from busmesh.names import Subjects
from busmesh.operator.listen import Listener, listener, subject_of
from busmesh.operator.sources import expand
from tests.operator.fakes import fake_mesh
from tests.support.bus import NatsServer

SUBJECTS = Subjects("local")


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        (None, ">"),
        (">", ">"),
        ("metrics", "metrics.>"),
        ("access", "access.>"),
        ("access.>", "access.>"),
        ("*.default.orders.*", "*.default.orders.*"),
        ("busmesh.local.telemetry.traces.shop.web.web-0", "traces.shop.web.web-0"),
    ],
)
def test_what_a_pattern_means(pattern: str | None, subject: str) -> None:
    assert subject_of(SUBJECTS, pattern) == f"busmesh.local.telemetry.{subject}"


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "metric",
        "metrics.",
        ".metrics",
        "metrics..x",
        "metrics.>.x",
        "busmesh.other.telemetry.>",
        "a b",
        "$SYS",
    ],
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UsageError) as refused:
        subject_of(SUBJECTS, pattern)
    assert refused.value.code == "BM2305"


@given(st.text(max_size=40))
def test_nothing_outside_telemetry_is_listened_to(pattern: str) -> None:
    try:
        subject = subject_of(SUBJECTS, pattern)
    except UsageError:
        return
    assert subject.startswith("busmesh.local.telemetry.")
    assert not set(subject) & set(" \t\r\n")


def test_messages_come_in_order(nats_server: NatsServer, ca: CertificateAuthority) -> None:
    async def main() -> None:
        async with (
            fake_mesh(nats_server, ca) as mesh,
            listener(mesh.bus, "busmesh.local.telemetry.>") as heard,
        ):
            for number in range(100):
                mesh.bus.publish(f"busmesh.local.telemetry.events.default.web.web-{number}", b"%d" % number)
            messages = [await heard.next() for _ in range(100)]
            assert [int(payload) for _, payload in messages] == list(range(100))
            assert messages[7][0] == "busmesh.local.telemetry.events.default.web.web-7"

    asyncio.run(main())


def test_what_nobody_takes_is_dropped_and_counted() -> None:
    async def main() -> None:
        heard = Listener(3)
        for number in range(5):
            heard.hear(b"subject", b"", b"%d" % number, b"")
        assert heard.dropped == 2
        assert await heard.next() == ("subject", b"0")

    asyncio.run(main())


def test_sources(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    monkeypatch.chdir(tmp_path)
    for name in ("b.yaml", "a.yml", "notes.txt", "sub/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert expand(["."]) == ["a.yml", "b.yaml"]
    assert expand(["b.yaml", "-", "b.yaml", "absent.yaml"]) == ["b.yaml", "-", "absent.yaml"]
    assert expand(["*.yaml"]) == ["b.yaml"]
    assert expand(["**/*.yaml"]) == ["b.yaml", "sub/c.yaml"]
    for nothing in ("empty", "*.json"):
        with pytest.raises(UsageError, match="BM2306"):
            expand([nothing])

"""The connection over TLS, and to more than one server."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from busmesh.bus.bus import Bus
from busmesh.bus.options import BusOptions
from busmesh.errors import BusUnavailable
from tests.bus.conftest import Run
from tests.bus.rig import Inbox, congest, connected, options, until
from tests.support.bars import bar
from tests.support.bus import NatsServer


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1, its own authority; return the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def _tls_server(tmp_path: Path) -> tuple[NatsServer, Path]:
    certificate, key = _certificate(tmp_path, "server")
    config = f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    return NatsServer(tmp_path / "bus", config=config), certificate


def test_over_tls_everything_is_as_without(tmp_path: Path, run: Run) -> None:
    server, certificate = _tls_server(tmp_path)

    async def main() -> None:
        inbox = Inbox()
        with server:
            async with connected(server.url, tls_ca=certificate) as bus:
                await bus.subscribe("a", inbox)
                bus.publish("a", b"x" * bus.max_payload)
                await until(lambda: len(inbox.messages) == 1)
                with pytest.raises(BusUnavailable, match="BM3006"):
                    await bus.request("nobody")
                server.kill()
                await until(lambda: not bus.connected)
                await asyncio.to_thread(server.restart)
                assert await until(lambda: bus.connected) <= bar(1.0)
                bus.publish("a", b"again")
                await until(lambda: inbox.payloads[1:] == [b"again"])

    run(main())


@pytest.mark.parametrize("asked_by", ["url", "roots"])
def test_a_server_that_takes_tls_away_is_told_nothing(tmp_path: Path, run: Run, asked_by: str) -> None:
    """Whoever stands in between could leave ``tls_required`` out of the server's greeting."""
    certificate, _ = _certificate(tmp_path, "server")
    written = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = {"server_id": "X", "version": "2.15.1", "headers": True, "max_payload": 1 << 20}
        elsewhere = {"nonce": "aaaaaaaaaaa", "connect_urls": ["127.0.0.1:9"]}
        writer.write(b"INFO %b\r\n" % json.dumps({**greeting, **elsewhere}).encode())
        while data := await reader.read(4096):
            written.extend(data)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"{'tls' if asked_by == 'url' else 'nats'}://127.0.0.1:{port}"
        bus = Bus(options(url, tls_ca=certificate if asked_by == "roots" else None))
        try:
            with pytest.raises(BusUnavailable, match="does not offer TLS"):
                await bus.connect(patience=1.0)
        finally:
            await bus.close()
            server.close()
        assert bytes(written) == b""

    run(main())


def test_over_tls_a_frozen_server_is_noticed_and_closing_takes_no_time(tmp_path: Path, run: Run) -> None:
    server, certificate = _tls_server(tmp_path)

    async def main() -> None:
        with server:
            async with connected(server.url, tls_ca=certificate) as bus:
                server.freeze()
                try:
                    await congest(bus)
                    assert await until(lambda: not bus.connected) <= bar(3.0)
                finally:
                    server.thaw()
                await until(lambda: bus.connected)
                assert not bus.congested

    run(main())


def test_a_server_that_others_vouch_for_is_not_talked_to(tmp_path: Path, run: Run) -> None:
    server, _ = _tls_server(tmp_path)
    stranger, _ = _certificate(tmp_path, "stranger")

    async def main() -> None:
        with server:
            bus = Bus(options(server.url, tls_ca=stranger))
            with pytest.raises(BusUnavailable, match="certificate"):
                await bus.connect(patience=1)
            await bus.close()

    run(main())


def test_when_one_of_two_servers_dies_the_other_is_used(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
            bus = Bus(BusOptions(servers=(one.url, two.url), name="test", inbox_prefix="inbox.test"))
            await bus.connect(patience=5)
            try:
                await bus.subscribe("a", inbox)
                for _ in range(4):
                    await bus.round_trip()
                    assert bus._client is not None
                    used = one if bus._client.server_in_use.endswith(f":{one.port}") else two
                    used.kill()
                    await until(lambda: not bus.connected)
                    assert await until(lambda: bus.connected) <= bar(1.0)
                    bus.publish("a", b"x")
                    await until(lambda: len(inbox.messages) > 0)
                    inbox.messages.clear()
                    await asyncio.to_thread(used.restart)
            finally:
                await bus.close()

    run(main())

"""What is asked of real sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

from busmesh.relay.client.sockets import UNSENT, keep_little_unsent, unacknowledged

MB = 1024 * 1024


class Writer(asyncio.Protocol):
    """Sends so much to whoever connects; what the system does not take waits in the transport."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.connected = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        keep_little_unsent(transport)
        self.connected.set()

    def write(self, size: int) -> None:
        for _ in range(size // 65_536):
            self.transport.write(bytes(65_536))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it holds")
def test_the_system_holds_little_for_a_client_that_does_not_read() -> None:
    async def main() -> None:
        writer = Writer()
        server = await asyncio.get_running_loop().create_server(lambda: writer, "127.0.0.1", 0)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.setblocking(False)
        async with server:
            await asyncio.get_running_loop().sock_connect(client, server.sockets[0].getsockname())
            await writer.connected.wait()
            for _ in range(20):
                writer.write(MB)
                await asyncio.sleep(0.01)
            assert writer.transport.get_write_buffer_size() > 18 * MB
            assert unacknowledged(writer.transport) < 2 * UNSENT
            writer.transport.abort()
            client.close()

    asyncio.run(main())

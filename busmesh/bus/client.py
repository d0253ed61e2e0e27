"""nats-py with its read and write paths replaced; connecting, TLS, credentials and server pool stay its own.

What is replaced, and why:

* Reading: bytes go from the socket straight to :class:`~busmesh.bus.parser.Parser` and from there to a
  handler, in one callback: no stream reader, no task switch, no queue per subscription. One bad message is
  counted and dropped, where nats-py would end its read loop and still call itself connected.
* Writing: frames published within one turn of the event loop are joined into one write, and only while the
  connection stands: nothing is kept to be delivered after a reconnect, when it would be stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Client as NatsClient
from nats.aio.subscription import Subscription

from busmesh.bus.parser import Parser
from busmesh.bus.serverfacts import ServerFacts
from busmesh.errors import RemoteProtocolError

log = logging.getLogger(__name__)

#: Linux and macOS have it.
_UNSENT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
#: (subject, reply subject or b"", payload, header block or b"").
Handler = Callable[[bytes, bytes, bytes, bytes], None]

#: Above this many unsent bytes the bus is busy, and bodies of streams wait: on a slow line a heartbeat behind
#: more than that would be late.
BUSY_BYTES = 64 * 1024
#: Above this many it is congested, and requests are shed.
CONGESTED_BYTES = 4 * 1024 * 1024
#: The system, too, would queue megabytes on a slow line; this much unsent is enough to keep a fast one full.
UNSENT_BYTES = 64 * 1024


class Client(NatsClient):
    """One connection to the bus.

    Args:
        on_state: hears True when it stands, False when it is lost.
        on_writable: called when the bus takes bytes again, after it was busy.
        on_denied: hears that the login lacks a right, in the server's own words.
    """

    def __init__(
        self,
        on_state: Callable[[bool], None],
        on_writable: Callable[[], None] = lambda: None,
        on_denied: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__()
        self._on_writable = on_writable
        self._on_denied = on_denied
        self._corked = False
        self._encrypts = False
        self.paused = False
        self.bad_messages = 0
        self.handler_errors = 0
        self._on_state = on_state
        self.handlers: dict[int, Handler] = {}
        self._parser = Parser(self.deliver, self._control_line)
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        #: Somebody was told in this turn that the bus is busy, and wants to hear when it is not.
        self._asked_while_busy = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def known_by(self, nkey: str | None) -> None:
        """Log in by an nkey that the server knows; None: by what else ``connect`` is told."""
        self._public_nkey = nkey

    def insist_on_tls(self) -> None:
        """Speak to no server that does not encrypt: nats-py would, whatever its URL says."""
        self._encrypts = True

    # -- connecting ------------------------------------------------------------------------------

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Before the login is shown, and before any other server that it names is believed in.
        if initial_connection and self._encrypts and not info.get("tls_required"):
            raise nats_errors.Error(
                "the server does not offer TLS, which its URL or --tls-ca asks for; is somebody in between?"
            )
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py forgets a connection that never got as far as a session, and forgets to close it: a server
        # that hangs would cost a socket per attempt.
        self.cut()
        await super()._connect_to_server(s)

    @property
    def stranded(self) -> bool:
        """True if nats-py is not connected and has stopped trying, over an error that it does not know."""
        trying = self._reconnection_task is not None and not self._reconnection_task.done()
        return not (trying or self.is_connected or self.is_closed)

    @property
    def server_in_use(self) -> str:
        """``host:port`` of the server used or tried last."""
        return self._current_server.uri.netloc if self._current_server is not None else ""

    @property
    def facts(self) -> ServerFacts:
        """What is known of the server and of the way to it; while connected."""
        return ServerFacts.of(
            self.server_in_use.rpartition("@")[2], self._server_info, self._stream_transport()
        )

    def forgive_servers(self) -> None:
        """Forget failed tries: nats-py counts those of a server until it is that very one that answers."""
        for server in self._server_pool:
            server.reconnects = 0

    # -- reading ---------------------------------------------------------------------------------

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        # From here to the end no await: nats-py's read loop has not run yet, so no byte is lost.
        transport = self._stream_transport()
        inner = transport.get_protocol()
        reader = inner._stream_reader
        early = bytes(reader._buffer)
        reader._buffer.clear()
        self._parser.reset()
        transport.set_protocol(_DirectProtocol(self, inner))
        transport.set_write_buffer_limits(high=BUSY_BYTES)
        if _UNSENT is not None and (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _UNSENT, UNSENT_BYTES)
        if early:
            self._read(early)

    def _stream_transport(self) -> Any:
        """The asyncio transport below nats-py's own transport object."""
        return self._transport._io_writer.transport  # type: ignore[union-attr]

    def _read(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except RemoteProtocolError as error:
            log.error("bus: %s; reconnecting", error)
            self._parser.reset()
            self.cut()

    def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        handler = self.handlers.get(sid)
        if handler is None:  # unsubscribed a moment ago
            return
        try:
            handler(subject, reply, payload, headers)
        except Exception:  # a handler's bug or a hostile message must not end the reading
            self.handler_errors += 1
            if self.handler_errors <= 10 or self.handler_errors % 1000 == 0:
                log.exception("bus: a handler failed (%d so far)", self.handler_errors)

    def _control_line(self, line: bytes) -> None:
        if line[:4] == b"PING":
            self._stream_transport().write(b"PONG\r\n")
        elif line[:4] == b"PONG":
            self._pings_outstanding = 0
            # One whose waiter timed out is cancelled already; setting it would end nats-py's loops.
            if self._pongs and not (future := self._pongs.pop(0)).done():
                future.set_result(True)
        elif line[:4] == b"-ERR":
            text = line[4:].strip().decode("utf-8", "replace")
            if text[:22].lower() == "'permissions violation":
                self._on_denied(text.strip("'"))
                return
            text = text.lower()
            self._spawn(self._process_err(text))
        elif line[:4] == b"INFO":
            self._spawn(self._take_info(line[4:]))

    async def _take_info(self, text: bytes) -> None:
        """Hear of servers that came or went; a server that writes nonsense is not believed."""
        try:
            await self._process_info(json.loads(text))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self.bad_messages += 1
            log.warning("bus: the server told of itself what cannot be read: %s", type(error).__name__)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def busy(self) -> bool:
        """True while more waits to be written than should wait in front of a heartbeat."""
        if self.paused:
            return True
        if self._outgoing_bytes <= BUSY_BYTES:
            return False
        self._asked_while_busy = True
        return True

    @property
    def congested(self) -> bool:
        return self.paused and bool(self._stream_transport().get_write_buffer_size() > CONGESTED_BYTES)

    # -- subscribing -----------------------------------------------------------------------------

    def attach(self, subject: str, handler: Handler) -> int:
        """Subscribe ``handler``; nats-py replays the subscription after each reconnect.

        It goes out in order with what :meth:`send` takes: an answer to a question asked next finds it there.

        Returns:
            The subscription id, for :meth:`detach`.
        """
        self._sid += 1
        sid = self._sid
        self._subs[sid] = Subscription(self, sid, subject)
        self.handlers[sid] = handler
        if self.is_connected:
            self.send(b"SUB %b  %d\r\n" % (subject.encode(), sid))
        return sid

    def detach(self, sid: int) -> None:
        self.handlers.pop(sid, None)
        if self._subs.pop(sid, None) is not None and self.is_connected:
            self.send(b"UNSUB %d\r\n" % sid)

    def leave(self) -> None:
        """Ask the server for nothing more; what comes before it has heard so is still handled."""
        for sid in list(self._subs):
            del self._subs[sid]
            if self.is_connected:
                self.send(b"UNSUB %d\r\n" % sid)

    # -- writing ---------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Write a complete protocol frame (``PUB ...``) at the end of this turn of the event loop."""
        if not self._outgoing:
            self._loop.call_soon(self.flush_outgoing)
        self._outgoing.append(frame)
        self._outgoing_bytes += len(frame)

    def flush_outgoing(self) -> None:
        """Write what :meth:`send` took; drop it if the connection is gone, since it would come late."""
        outgoing = self._outgoing
        if outgoing and not self._corked:
            transport = self._stream_transport()
            if not transport.is_closing():
                transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
            outgoing.clear()
            self._outgoing_bytes = 0
            if self._asked_while_busy and not self.paused:
                self._asked_while_busy = False
                self._loop.call_soon(self._on_writable)

    def cork(self) -> None:
        """Write what was taken so far, and keep what comes until :meth:`uncork`, in its order."""
        self.flush_outgoing()
        self._corked = True

    def uncork(self) -> None:
        self._corked = False
        self.flush_outgoing()

    async def rtt(self, timeout: float = 1.0) -> float:
        if self._stream_transport().is_closing():  # uvloop raises a RuntimeError, which nobody expects
            raise ConnectionResetError("the bus connection is closing")
        return await super().rtt(timeout)  # type: ignore[arg-type]  # annotated int, used as seconds

    async def _send_ping(self, future: Any = None) -> None:
        # The answer proves what went before it: a PING must not overtake what send() took.
        self.flush_outgoing()
        await super()._send_ping(future)

    def cut(self) -> None:
        """Drop the connection at once, unsent bytes included, if there is one; nats-py then reconnects."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            with contextlib.suppress(AttributeError):  # asyncio's own, over a transport that is lost already
                writer.transport.abort()


class _DirectProtocol(asyncio.Protocol):
    """Takes the place of the stream protocol: data goes to the client, all else to the old protocol.

    The old one still feeds nats-py's read loop with the end of the stream, which starts its reconnect.
    """

    def __init__(self, client: Client, inner: asyncio.StreamReaderProtocol) -> None:
        self._client = client
        self._inner = inner
        self.data_received = client._read  # type: ignore[method-assign]  # one call less per read

    def eof_received(self) -> None:
        # Closed for good: what is unsent would keep nats-py waiting for a peer that may never read it.
        self._client.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.paused = False  # a lost transport does not say that writing resumes
        self._client._on_state(False)
        # An error would be raised inside nats-py's read loop; the end of the stream says the same.
        self._inner.connection_lost(None)

    def pause_writing(self) -> None:
        self._client.paused = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._client.paused = False
        self._inner.resume_writing()
        self._client._on_writable()

"""A real application for tests: it echoes what it got, counts it, and misbehaves on demand.

What the query says is done: ``delay=0.2`` (seconds), ``status=503``, ``size=1000`` (a body of that many bytes
instead of the echo), ``chunked=1``, ``close=1`` (close the connection after the answer), ``drop=1`` (close it
instead of an answer).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

KEPT_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the application saw it; header names as they came, ``headers`` in order."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body_sha256: str
    body_length: int

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class EchoApp:
    """An HTTP/1.1 application on 127.0.0.1, one thread per connection.

    ``/healthz`` answers 200 while :attr:`healthy` and is not counted.

    Args:
        name: what the echo calls itself under ``app``.
        port: a fixed port; 0 chooses one. It is kept over :meth:`stop` and :meth:`start`.
    """

    def __init__(self, name: str = "echo", *, port: int = 0) -> None:
        self.name = name
        self.port = port
        self.healthy = True
        #: Every request but those for health, oldest first.
        self.received: deque[Received] = deque(maxlen=KEPT_REQUESTS)
        #: Connections accepted since the first start.
        self.connections = 0
        #: What came where a request should begin and could not be taken for one.
        self.misread = 0
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def count(self) -> int:
        """How many requests came, those for health apart."""
        return len(self.received)

    def start(self) -> EchoApp:
        """Listen and serve; returns when connections are accepted."""
        if self._server is not None:
            raise RuntimeError(f"{self!r} is running already")
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the listening socket and every connection at once, as the death of the process does."""
        self._may_answer.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join(5)
            self._server.close_all()
        self._server = self._thread = None

    def freeze(self) -> None:
        """Accept and read, but answer nothing, health included: the application that hangs."""
        self._may_answer.clear()

    def thaw(self) -> None:
        """Answer again, also what has come in the meantime."""
        self._may_answer.set()

    def __enter__(self) -> EchoApp:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._server is None else "listening"
        return (
            f"<EchoApp {self.name} {self.url} {state} connections={self.connections} requests={self.count}>"
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, app: EchoApp) -> None:
        self.app = app
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", app.port), _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # typeshed: also datagrams
        self.app.connections += 1  # only the one thread that accepts comes here
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # typeshed: also datagrams
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away: tests make them do it."""

    def close_all(self) -> None:
        self.server_close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)  # its thread then reads the end and closes it


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one write
    server: _Server

    def answer(self) -> None:
        app, url = self.server.app, urlsplit(self.path)
        length, digest = self._read_body()
        if url.path != "/healthz":
            headers = tuple(self.headers.items())
            target = self.requestline.split()[1]  # of several slashes at its beginning, ``path`` keeps one
            app.received.append(Received(self.command, target, headers, digest, length))
        app._may_answer.wait()
        if url.path == "/healthz":
            self._send(200 if app.healthy else 503, b"{}")
            return
        wish = dict(parse_qsl(url.query))
        time.sleep(float(wish.get("delay", 0)))
        if "drop" in wish:
            self.close_connection = True
            return
        if "close" in wish:
            self.close_connection = True
        body = b"x" * int(wish["size"]) if "size" in wish else self._echo(length, digest)
        self._send(int(wish.get("status", 200)), body, chunked="chunked" in wish)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request that this application knows; tests count it all the same."""
        self.server.app.misread += 1
        super().send_error(code, message, explain)

    def log_message(self, *args: object) -> None:
        """Keep the tests' output for pytest."""

    def _echo(self, length: int, digest: str) -> bytes:
        echo = {
            "app": self.server.app.name,
            "method": self.command,
            "path": self.path,
            "headers": self.headers.items(),
            "body_length": length,
            "body_sha256": digest,
        }
        return json.dumps(echo).encode()

    def _read_body(self) -> tuple[int, str]:
        digest, total = hashlib.sha256(), 0
        for part in self._body_parts():
            digest.update(part)
            total += len(part)
        return total, digest.hexdigest()

    def _body_parts(self) -> list[bytes]:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return [self.rfile.read(int(self.headers.get("content-length", 0)))]
        parts = []
        while size := int(self.rfile.readline(100).split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline(3)
        while self.rfile.readline(65_536).strip():
            pass  # trailers
        return parts

    def _send(self, status: int, body: bytes, *, chunked: bool = False) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-app", self.server.app.name)
        if self.close_connection:
            self.send_header("connection", "close")
        if chunked:
            self.send_header("transfer-encoding", "chunked")
            half = len(body) // 2 or len(body)
            parts = [part for part in (body[:half], body[half:]) if part]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        else:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in {204, 304}:
            self.wfile.write(body)

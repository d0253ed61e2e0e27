"""A real application as synchronous frameworks make them: who has called the next one waits, client or not.

It lives in the test's own process, which sets what it does and sees at once what came. Applications that stop
when their client goes, as asynchronous ones do, are in :mod:`tests.support.staged`.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Threaded:
    """One application on 127.0.0.1, a thread for each connection.

    ``/healthz`` answers 200 and counts for nothing. What is set is read anew with each request.

    Attributes:
        status: of its answers.
        delay: seconds that each of them takes.
        next: (address of its own agent, service) that it calls for each request, and whose status it passes
            on; the trace context goes along.
        hits: paths of the requests that came.
        took: seconds that each call of the next service took.
        left: when clients closed the connection before their answer (monotonic seconds).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.delay = 0.0
        self.next: tuple[str, str] | None = None
        self.hits: list[str] = []
        self.took: list[float] = []
        self.left: list[float] = []
        self._server = _Server(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def work(self, connection: socket.socket) -> None:
        """Take :attr:`delay`, or less if the client goes away."""
        readable, _, _ = select.select([connection], [], [], self.delay)
        if readable:
            self.left.append(time.monotonic())

    def call_next(self, traceparent: str | None) -> int:
        """Call the next service as an application does that passes the trace context on."""
        assert self.next is not None
        address, service = self.next
        began = time.monotonic()
        headers = {"Host": service} | ({"traceparent": traceparent} if traceparent else {})
        with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
            connection.request("GET", "/", headers=headers)
            answer = connection.getresponse()
            answer.read()
        self.took.append(time.monotonic() - began)
        return answer.status

    @contextmanager
    def serving(self) -> Iterator[Threaded]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)

    def __repr__(self) -> str:
        return f"<Threaded {self.name} status={self.status} delay={self.delay:g} hits={len(self.hits)}>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024
    server: _Server

    def answer(self) -> None:
        app = self.server.app
        self.rfile.read(int(self.headers.get("content-length") or 0))
        status = 200
        if self.path != "/healthz":
            app.hits.append(self.path)
            app.work(self.connection)
            status = app.status if app.next is None else app.call_next(self.headers.get("traceparent"))
        body = json.dumps({"name": app.name, "path": self.path}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, app: Threaded) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.app = app

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away: tests make them do it."""

"""The demo's applications: a shop of three ordinary HTTP services, web -> orders -> payments.

They show that an application stays as it is. So this file is plain standard library, knows nothing of
busmesh, and does only what every service does: it calls ``http://orders/orders`` through the proxy that
``http_proxy`` names (or sends the same request, with ``Host: orders``, to the address that ``--mesh`` names),
passes on the headers that belong to the whole journey, and answers 502 when the service below has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: Where each service answers, and whom it asks for it: path -> (service below, path there), or None.
CALLS: dict[str, dict[str, tuple[str, str] | None]] = {
    "web": {"/": ("orders", "/orders"), "/checkout": ("orders", "/orders")},
    "orders": {"/orders": ("payments", "/charge")},
    "payments": {"/charge": None},
}
#: Headers that belong to the journey of a request and not to one hop: the trace, and who or what asks.
PASSED_ON = ("traceparent", "tracestate", "baggage", "x-request-id", "x-user", "x-canary")
MAX_BODY = 1024 * 1024
CALL_TIMEOUT_S = 10.0
DRAIN_S = 5.0


class CallFailed(Exception):
    """A service below did not answer, or not with success; ``below`` is what it said, if anything."""

    def __init__(self, reason: str, below: object = None) -> None:
        super().__init__(reason)
        self.below = below


class Caller(threading.local):
    """Calls other services over connections that it keeps: a set of its own for each thread that uses it.

    Args:
        address: host and port that every call goes to; None: to each service's own host name.
        proxy: True writes the whole URL into the request line, as a proxy expects it.
    """

    def __init__(self, address: tuple[str, int] | None = None, *, proxy: bool = False) -> None:
        self.address = address
        self.proxy = proxy
        self._kept: dict[tuple[str, int], http.client.HTTPConnection] = {}

    def call(self, method: str, service: str, path: str, headers: dict[str, str], body: bytes) -> object:
        """Return the JSON that ``service`` answers.

        Raises:
            CallFailed: no answer, one that is no JSON, or a status other than 2xx.
        """
        connection = self._connection(service)
        target = f"http://{service}{path}" if self.proxy else path
        try:
            connection.request(method, target, body or None, {"host": service, **headers})
            response = connection.getresponse()
            answer = response.read(MAX_BODY + 1)
            if response.length and len(answer) <= MAX_BODY:  # read(n) does not tell of an early end
                raise http.client.IncompleteRead(answer, response.length)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CallFailed(f"no answer from {service}: {str(error) or type(error).__name__}") from error
        if len(answer) > MAX_BODY:
            connection.close()
            raise CallFailed(f"{service} answered more than {MAX_BODY} bytes")
        try:
            said = json.loads(answer)
        except ValueError:
            said = None
        if not 200 <= response.status < 300 or said is None:
            raise CallFailed(f"{service} answered {response.status}", said)
        return said

    def close(self) -> None:
        """Close the connections of this thread."""
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def _connection(self, service: str) -> http.client.HTTPConnection:
        """Return the connection for ``service``, closed first if its other end has gone.

        Looking before sending spares the question whether a request that failed was processed.
        """
        host, port = address = self.address or (service, 80)
        if address not in self._kept:
            self._kept[address] = http.client.HTTPConnection(host, port, timeout=CALL_TIMEOUT_S)
        connection = self._kept[address]
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # readable while nothing is asked: the end, or nonsense
        return connection


@dataclass(frozen=True)
class Application:
    """One instance of one service of the shop."""

    service: str
    version: str
    instance: str
    caller: Caller

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        """Return status and JSON for one request."""
        me = {"service": self.service, "version": self.version, "instance": self.instance}
        if path == "/healthz":
            return 200, {**me, "healthy": True}
        if path not in CALLS[self.service]:
            return 404, {**me, "error": f"{self.service} has no {path}"}
        call = CALLS[self.service][path]
        if call is None:
            return 200, me
        try:
            return 200, {**me, "below": self.caller.call(method, *call, headers, body)}
        except CallFailed as failure:
            return 502, {**me, "error": str(failure), "below": failure.below}


class Server(ThreadingHTTPServer):
    """Serves one application, a thread for each connection, and counts what is in flight."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, application: Application, host: str, port: int) -> None:
        self.application = application
        self._in_flight = 0
        self._changed = threading.Condition()
        super().__init__((host, port), Handler)

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count one request until its answer is written."""
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        """Report what went wrong with a connection, unless it is only that the other end has gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typeshed repeats a union

    def drain(self) -> None:
        """Accept nobody any more and wait for what is in flight, at most :data:`DRAIN_S`."""
        self.server_close()
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, DRAIN_S)


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with one connection, which stays open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one write
    server: Server

    def _respond(self) -> None:
        with self.server.in_flight():
            length = self.headers.get("content-length", "0")
            if "transfer-encoding" in self.headers or not length.isdecimal():
                self._refuse(411, "send a body with its Content-Length")
                return
            if int(length) > MAX_BODY:
                self._refuse(413, f"send at most {MAX_BODY} bytes")
                return
            body = self.rfile.read(int(length))
            passed_on = {name: value for name in PASSED_ON if (value := self.headers.get(name)) is not None}
            path = urlsplit(self.path).path
            self._write(*self.server.application.answer(self.command, path, passed_on, body))

    do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815  the base class looks for these names

    def _refuse(self, status: int, error: str) -> None:
        self.close_connection = True  # what follows is the body that nobody read
        self._write(status, {"error": error})

    def _write(self, status: int, answer: object) -> None:
        payload = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def finish(self) -> None:
        """The connection has ended, and with it this thread: so do its own calls."""
        self.server.application.caller.close()
        with contextlib.suppress(OSError):  # the other end may have gone first
            super().finish()

    def log_message(self, *args: object) -> None:
        """Write no line per request: the mesh's telemetry says more."""


def address(url: str) -> tuple[str, int]:
    """Return host and port of ``http://host:port``, for argparse.

    Raises:
        ValueError: not such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(url)
    return parts.hostname, parts.port or 80


def command_line() -> argparse.ArgumentParser:
    """Return what reads the arguments of one service."""
    parser = argparse.ArgumentParser(
        prog="python -m busmesh.demo.shop", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("service", choices=sorted(CALLS))
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; 0: any free one")
    parser.add_argument("--version", default="v1", help="the version that the answers name")
    parser.add_argument("--instance", help="the instance that the answers name; default: SERVICE-VERSION-PID")
    parser.add_argument(
        "--mesh",
        type=address,
        metavar="URL",
        help="send calls here; default: through the proxy in http_proxy",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run one service of the shop until SIGTERM or Ctrl-C."""
    options = command_line().parse_args(argv)
    proxy = os.environ.get("http_proxy")
    try:
        caller = Caller(
            options.mesh or (proxy and address(proxy)) or None, proxy=not options.mesh and bool(proxy)
        )
    except ValueError as error:
        command_line().error(f"http_proxy is no http:// URL: {error}")
    instance = options.instance or f"{options.service}-{options.version}-{os.getpid()}"
    application = Application(options.service, options.version, instance, caller)
    try:
        server = Server(application, options.host, options.port)
    except OSError as error:
        command_line().error(f"cannot listen on {options.host}:{options.port}: {error.strerror}")

    def stop(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown).start()  # shutdown() waits for the loop that we interrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    ready = {"event": "ready", "service": options.service, "version": options.version, "instance": instance}
    print(json.dumps({**ready, "port": server.server_port}), flush=True)
    server.serve_forever(poll_interval=0.05)
    server.drain()
    sys.stdout.flush()


if __name__ == "__main__":
    main()

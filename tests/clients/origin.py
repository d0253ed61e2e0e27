"""The application that clients call: it echoes exactly what arrived and answers whatever a test asks for."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

GZIPPED = gzip.compress(b"the same words over and over " * 400, mtime=0)


def some_bytes(size: int) -> bytes:
    """Return ``size`` bytes that are the same in every process."""
    return Random(size).randbytes(size)


class Origin:
    """Runs in a thread; ``url`` is where it listens."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.authority}"

    def __enter__(self) -> Origin:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_version = "origin"
    sys_version = ""

    def answer(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        wish = parse_qs(parts.query)
        page, _, argument = parts.path.strip("/").partition("/")
        match page:
            case "bytes":
                self._send(200, some_bytes(int(argument)), ("Content-Type", "application/octet-stream"))
            case "chunked":
                self._send(200, some_bytes(int(argument)), chunked=True)
            case "gzip":
                self._send(200, GZIPPED, ("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))
            case "cookies":
                self._send(
                    200,
                    b"{}",
                    ("Set-Cookie", "a=1; Path=/"),
                    ("Set-Cookie", "b=two%20words; Path=/; HttpOnly"),
                )
            case "redirect":
                self._send(302, b"", ("Location", wish["to"][0]))
            case "status":
                self._send(int(argument), b"" if argument in ("204", "304") else b'{"error": "mine"}')
            case "headers":
                self._send(
                    200,
                    b"ok",
                    ("X-First", "1"),
                    ("x-lower", "2"),
                    ("X-UPPER", "3"),
                    ("X-First", "again"),
                    ("X-Blank", ""),
                    ("X-Text", 'a  b, c; d="e" caf\xe9'),
                    ("ETag", 'W/"x"'),
                )
            case _:
                self._send(200, self._echo(body), ("Content-Type", "application/json"))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *args: object) -> None:
        """Keep the tests' output for pytest."""

    def _echo(self, body: bytes) -> bytes:
        echo = {
            "method": self.command,
            "target": self.path,
            "headers": self.headers.items(),
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        return json.dumps(echo).encode()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(100).split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline(3)
        while self.rfile.readline(65_536).strip():
            pass
        return b"".join(parts)

    def _send(self, status: int, body: bytes, *headers: tuple[str, str], chunked: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            cut = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

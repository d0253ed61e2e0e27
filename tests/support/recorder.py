"""An ordinary application as a process of its own, which writes down every request that it gets.

``python -m tests.support.recorder --name orders-v1-0 --record FILE [--port N]`` prints one JSON ready line.
Each request adds one JSON line to FILE before it is answered, so what was seen survives a SIGKILL.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: Head and body leave in one segment: two would wait for each other's acknowledgement (Nagle).
    wbufsize = -1
    server: _Server

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        parts = urlsplit(self.path)
        if parts.path != "/healthz":
            said = {"method": self.command, "path": self.path, "id": self.headers.get("x-id")}
            self.server.write_down({**said, "at": time.time(), "whole": len(body) == length})
        if delay := parse_qs(parts.query).get("delay"):
            time.sleep(float(delay[0]))
        said = {
            "name": self.server.name,
            "echo": body.decode("latin-1"),
            "headers": dict(self.headers.items()),
        }
        payload = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str, port: int, record: Path) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.name = name
        # O_APPEND: lines of several threads do not mix.
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write_down(self, what: dict[str, object]) -> None:
        os.write(self._record, json.dumps(what).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = _Server(options.name, options.port, options.record)
    host, port = server.server_address[:2]
    print(json.dumps({"event": "ready", "url": f"http://{host}:{port}"}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""The application behind every contestant: nginx with one worker, or a small server on uvloop.

``GET /<n>`` answers with ``n`` bytes, ``PUT /upload`` with the number of bytes that it took and dropped;
any other path answers 200, so health checks pass. nginx passes uploads on, as they come, to the small
server: by itself it either answers before they are complete or keeps them.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contest import UPSTREAM
from benchmarks.jobs import SMALL_BYTES
from benchmarks.stand import Process, Stand, find_program, free_port, get

UPLOAD_PATH = "/upload"
#: nginx holds a literal of up to 4 KiB in its configuration; anything larger is served from a file.
_LARGEST_LITERAL = 2048
#: Larger files are sparse: they take no room on the disk, and their bytes are zero.
_LARGEST_WRITTEN = 2**16
_READ_BYTES = 2**22

_NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    sendfile on;
    etag off;
    open_file_cache max=16 inactive=1h;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    upstream sink {{ server 127.0.0.1:{sink}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "ok"; }}
        location = {upload} {{
            client_max_body_size 0;
            client_body_buffer_size 256k;
            proxy_request_buffering off;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://sink;
        }}
{locations}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running application."""

    name: str
    port: int
    processes: tuple[Process, ...]
    #: Holds a file of each size, named after it, to upload.
    directory: Path

    @property
    def roles(self) -> dict[int, str]:
        return {process.pid: UPSTREAM for process in self.processes}


def body_of(size: int) -> bytes:
    """Return the body that ``GET /<size>`` answers with, of sizes that are not streams."""
    return b"x" * size


def nginx_config(directory: Path, port: int, sink: int, sizes: Iterable[int], *, as_root: bool) -> str:
    """Return the configuration of the upstream; bodies too large for it are read from ``directory``."""
    locations = []
    for size in sorted(set(sizes)):
        if size <= _LARGEST_LITERAL:
            action = f'return 200 "{body_of(size).decode()}";'
        else:
            action = f"root {directory};"
        locations.append(f"        location = /{size} {{ {action} }}")
    return _NGINX.format(
        directory=directory,
        port=port,
        sink=sink,
        upload=UPLOAD_PATH,
        # Its worker would otherwise be "nobody", whom the stand's directory keeps out.
        user="user root;" if as_root else "",
        locations="\n".join(locations),
    )


def start(stand: Stand, sizes: Iterable[int]) -> Upstream:
    """Start the best upstream that this machine has, for these sizes of bodies and the small one."""
    sizes = {SMALL_BYTES, *sizes}
    for size in sizes:
        _write_body(stand.directory / str(size), size)
    sink_port = free_port()
    sink = stand.start_module("sink", "benchmarks.pyserver", str(sink_port))
    sink.wait_until(lambda: get(sink_port) == (200, b"ok"))
    program = find_program("nginx")
    if program is None:
        return Upstream("python (uvloop, httptools)", sink_port, (sink,), stand.directory)
    port = free_port()
    config = stand.directory / "nginx.conf"
    config.write_text(nginx_config(stand.directory, port, sink_port, sizes, as_root=os.geteuid() == 0))
    process = stand.start("upstream", [program, "-p", str(stand.directory), "-c", str(config)])
    process.wait_until(lambda: get(port) == (200, b"ok"))
    name = f"nginx {_nginx_version(program)}, one worker; uploads end in a sink on uvloop behind it"
    return Upstream(name, port, (process, sink), stand.directory)


def _write_body(path: Path, size: int) -> None:
    if size <= _LARGEST_WRITTEN:
        path.write_bytes(body_of(size))
    else:
        with path.open("w+b", buffering=0) as file:
            file.truncate(size)
            # Into the page cache: whoever reads it first would otherwise pay for that.
            while file.read(_READ_BYTES):
                pass


def _nginx_version(program: str) -> str:
    printed = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", printed)
    return found[1] if found else "of unknown version"

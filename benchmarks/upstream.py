"""The application behind every contestant: nginx with one worker, or a small server on uvloop.

``GET /<n>`` answers with ``n`` bytes; any other path answers 200, so health checks pass.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stand import Process, Stand, find_program, free_port, get

#: nginx holds a literal of up to 4 KiB in its configuration; anything larger is served from a file.
_LARGEST_LITERAL = 2048

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
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "ok"; }}
{locations}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running application."""

    name: str
    port: int
    process: Process


def body_of(size: int) -> bytes:
    """Return the body that ``GET /<size>`` answers with."""
    return b"x" * size


def nginx_config(directory: Path, port: int, sizes: Iterable[int], *, as_root: bool) -> str:
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
        # Its worker would otherwise be "nobody", whom the stand's directory keeps out.
        user="user root;" if as_root else "",
        locations="\n".join(locations),
    )


def start(stand: Stand, sizes: Iterable[int]) -> Upstream:
    """Start the best upstream that this machine has, and wait until it answers."""
    port = free_port()
    program = find_program("nginx")
    if program is None:
        name = "python (uvloop, httptools)"
        process = stand.start_module("upstream", "benchmarks.pyserver", str(port))
    else:
        name = f"nginx {_nginx_version(program)}, one worker"
        for size in sizes:
            (stand.directory / str(size)).write_bytes(body_of(size))
        config = stand.directory / "nginx.conf"
        config.write_text(nginx_config(stand.directory, port, sizes, as_root=os.geteuid() == 0))
        process = stand.start("upstream", [program, "-p", str(stand.directory), "-c", str(config)])
    process.wait_until(lambda: get(port) == (200, b"ok"))
    return Upstream(name, port, process)


def _nginx_version(program: str) -> str:
    printed = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", printed)
    return found[1] if found else "of unknown version"

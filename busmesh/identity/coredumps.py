"""No core dumps of a process that holds keys: a crash must not write them to a disk.

The limit is inherited, and what an agent starts beside itself is not busmesh's to change, so
:func:`allow_again` gives an application back what the agent was started with.
"""

from __future__ import annotations

import contextlib
import sys

if sys.platform != "win32":
    import resource

    #: The limit that this process was started with: bytes of a core dump.
    _started_with = resource.getrlimit(resource.RLIMIT_CORE)


def forbid() -> None:
    """Have the system write no core dump of this process, nor of those that it starts from now on."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, _started_with[1]))


def allow_again(process: int) -> None:
    """Give a process that this one has started the limit that this one was started with.

    Args:
        process: its id. If it has ended already, or the system cannot do this to another process, nothing
            happens.
    """
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_CORE, _started_with)

"""An alarm clock for an event loop, exact to some microseconds: Linux's timerfd.

The timers of uvloop have a grain of a millisecond: at 5,000 requests/s the load generator itself would add
up to that to every latency. ``os.timerfd_create`` comes with Python 3.13 only.
"""

from __future__ import annotations

import ctypes
import os
import time
from types import TracebackType
from typing import Self

_libc = ctypes.CDLL(None, use_errno=True)
_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class Alarm:
    """A file descriptor that becomes readable at the time for which it was set last.

    Raises:
        OSError: the system has no timerfd.
    """

    def __init__(self) -> None:
        self._descriptor = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return int(self._descriptor)

    def set(self, at_ns: int) -> None:
        """Go off at a time of ``time.monotonic_ns()``, at once if that has passed, and not before.

        An alarm that went off is set back by it: no read of the descriptor is needed.
        """
        when = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(max(1, at_ns), 10**9)))
        if _libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(when), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

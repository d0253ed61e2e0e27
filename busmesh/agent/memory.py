"""The process's memory, set up for an agent: objects that stay, and bodies that come and go."""

from __future__ import annotations

import ctypes
import gc
import sys

#: From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
#: Blocks up to this size are taken from the heap, and so much of it is kept when it is free again.
_FROM_HEAP = 32 * 1024 * 1024
_KEPT = 64 * 1024 * 1024


def settle() -> None:
    """Give back what only the start needed, and have the collector leave the rest alone: it stays."""
    gc.collect()
    if (library := _c_library()) is not None:
        library.malloc_trim(0)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def keep_blocks() -> None:
    """Have the C library keep the blocks that bodies travel in, instead of giving them back each time.

    By default a block of 128 KiB is mapped anew whenever it is needed, and the system clears each of its
    pages: for a stream that costs more than twice all the rest together.
    """
    library = _c_library()
    if library is None:
        return
    mallopt = library.mallopt
    mallopt(_M_MMAP_THRESHOLD, _FROM_HEAP)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_TOP_PAD, 1024 * 1024)


def _c_library() -> ctypes.CDLL | None:
    """Return the GNU C library; another one has its own ways."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None

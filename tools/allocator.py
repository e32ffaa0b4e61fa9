"""How this process keeps memory that it has freed."""

from __future__ import annotations

import ctypes

KEPT_BYTES = 64 << 20
"""So much freed memory stays with the process at most, ..."""
LARGE_BYTES = 8 << 20
"""... and a block below this is made of it. The largest message is smaller."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Large blocks are taken from memory that was freed before. False if the C library is not glibc, with nothing done.

    By default glibc maps a block of a megabyte, a chunk of a moving shard say, for itself and gives it back when it is freed.
    What goes through ten buffers on its way is then faulted in ten times, 4 KiB by 4 KiB, which takes longer than copying it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_MMAP_THRESHOLD, LARGE_BYTES))

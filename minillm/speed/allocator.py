"""Keep freed memory: the C library keeps the memory that one training step frees, and the next step reuses it.

By default the C library of Linux returns large blocks to the system when they are freed. The system hands them out
again page by page, each filled with zeros at the first access: thousands of page faults in every step. With the
settings below the C library keeps and reuses these blocks. This changes no computation, so it needs no plain version
and no signature. `train.keep_memory = false` switches it off.

Gain: a training step takes 0.94 of the time (`python -m benchmarks.allocator`).
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
LARGEST = 2**25  # 32 MB, the highest threshold that glibc accepts; larger blocks are always mapped separately


def keep_freed_memory() -> bool:
    """Keep freed memory from now on, in the whole process. Without glibc it does nothing and returns False."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))

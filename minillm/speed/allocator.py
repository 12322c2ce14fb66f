"""Keep freed memory: the memory that one training step frees serves the next, which asks for tensors of the same sizes.

By default the C library of Linux gives large pieces back to the system as soon as they are freed, and the system
hands them out again page by page, each filled with zeros at the first touch: thousands of page faults in every
step. With the settings below the C library keeps and reuses those pieces. This trick stands in for nothing and
needs no signature, since it changes no computation; `train.keep_memory = false` leaves it out.

Gain: a training step takes 0.94 of the time (`python -m benchmarks.allocator`).
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
LARGEST = 2**25  # 32 MB, the highest threshold that glibc accepts: larger pieces are always mapped on their own


def keep_freed_memory() -> bool:
    """Keep freed memory from now on, in the whole process; False, and nothing done, where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))

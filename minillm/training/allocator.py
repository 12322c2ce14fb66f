"""Keep freed memory: a step asks for the same tensors as the step before, so what one frees, the next can have.

By default the C library of Linux gives large pieces back to the system as soon as they are freed, and the system hands them out again
page by page, each filled with zeros at the first touch: thousands of interruptions a step, for nothing. Told to keep them, it reuses
them. `python -m benchmarks.allocator` measures what that is worth.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>
LARGEST = 2**25  # the most that glibc takes for a piece that is not mapped on its own: 32 MB


def keep_freed_memory() -> bool:
    """From now on, for the whole process; False, and nothing done, where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, 2**31 - 1))

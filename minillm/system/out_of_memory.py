"""Out of memory as one sentence: the bytes needed, the bytes free, and the remedy.

Linux promises more memory than it has, and kills a process that uses what was promised. So while a script works, the
process's memory is limited to what is free (RLIMIT_DATA): then an allocation that is too large fails, with an
exception.
"""

import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAILED = re.compile(
    r"can't allocate memory|not enough memory|out of memory|unable to allocate|bad_alloc"
    r"|size calculation overflowed|overflow when unpacking|overflow$",
    re.IGNORECASE,
)
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?([KMGTPE]?)i?B", re.IGNORECASE)  # torch, NumPy
SIZES = re.compile(r"overflowed with sizes=\[([\d, ]+)\]")


@contextmanager
def memory_errors_as_value_errors(advice: str, *, limited: bool) -> Iterator[None]:
    """Context in which running out of memory is a ValueError that ends with `advice`.

    `limited`: limit the process to the memory that is free; on Linux only.
    """
    with _limited() if limited and sys.platform == "linux" else _unlimited() as free:
        try:
            yield
        except (RuntimeError, MemoryError) as e:
            if not isinstance(e, MemoryError) and not FAILED.search(str(e)):
                raise
            needed = bytes_asked(str(e))
            amount = f"{needed:,} bytes were needed at once" if needed else "more was needed"
            had = f" and {free:,} were free" if free else ""
            raise ValueError(f"out of memory: {amount}{had}; {advice}") from None


def bytes_asked(message: str) -> int | None:
    """The number of bytes in an allocator's message; None if it has none.

    >>> bytes_asked("DefaultCPUAllocator: tried to allocate 4096 bytes."), bytes_asked("bad_alloc")
    (4096, None)
    """
    if found := SIZES.search(message):
        return 4 * math.prod(map(int, found[1].split(",")))  # float32
    found = ASKED.search(message)
    return round(float(found[1]) * 1024 ** " KMGTPE".index(found[2].upper() or " ")) if found else None


@contextmanager
def _unlimited() -> Iterator[None]:
    yield None


@contextmanager
def _limited() -> Iterator[int]:
    """Limit the process to its present memory and what is free now; yield the free bytes."""
    import resource  # not on every platform

    held, free = _held_bytes(), free_bytes()
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [held + free, *(limit for limit in (before, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield free
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def free_bytes() -> int:
    """Memory in bytes that Linux can still give this process, swap included, within a container's limits."""
    free = _kilobytes("/proc/meminfo")
    in_container = [limit - _held_bytes() for limit in _container_limits()]
    return max(0, min([free["MemAvailable"] + free["SwapFree"], *in_container]))


def _held_bytes() -> int:
    return _kilobytes("/proc/self/status")["VmData"]


def _kilobytes(path: str) -> dict[str, int]:
    """Name -> bytes, for lines of the form `name: n kB`."""
    return {name: 1024 * int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)}


def _container_limits() -> Iterator[int]:
    """Memory limits of the process's control groups: memory.max (version 2), memory.limit_in_bytes (version 1)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", "memory" if "memory" in controllers.split(",") else "")
        for group in [root / path.lstrip("/"), *(root / path.lstrip("/")).parents][: path.count("/") + 1]:
            for name in ("memory.max", "memory.limit_in_bytes"):
                text = (group / name).read_text().strip() if (group / name).is_file() else "max"
                if text != "max":
                    yield int(text)

"""Running out of memory in one sentence: the bytes that were needed, those that there were, and what to lower.

Linux promises more memory than it has and kills a process that uses what it was promised. So while a script works, its process may not
be promised more than is free (RLIMIT_DATA): then the allocation that is too much fails, and whoever asked for it is told.
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
ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ?([KMGTPE]?)i?B", re.IGNORECASE)  # of torch and of NumPy
SIZES = re.compile(r"overflowed with sizes=\[([\d, ]+)\]")


@contextmanager
def told_in_a_sentence(advice: str, *, limited: bool) -> Iterator[None]:
    """Within it, running out of memory is a ValueError that ends with `advice`; `limited` to what is free, on the CPU of Linux."""
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
    """The bytes that an allocator says it was asked for; None where it does not say."""
    if found := SIZES.search(message):
        return 4 * math.prod(map(int, found[1].split(",")))  # of float32
    found = ASKED.search(message)
    return round(float(found[1]) * 1024 ** " KMGTPE".index(found[2].upper() or " ")) if found else None


@contextmanager
def _unlimited() -> Iterator[None]:
    yield None


@contextmanager
def _limited() -> Iterator[int]:
    """Let the process hold no more than it has and what is free now, which is the value."""
    import resource  # not everywhere

    held, free = _held_bytes(), free_bytes()
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [held + free, *(limit for limit in (before, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield free
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def free_bytes() -> int:
    """Memory that Linux could still give this process, swap included, at most what a container may have."""
    free = _kilobytes("/proc/meminfo")
    return max(
        0, min([free["MemAvailable"] + free["SwapFree"], *(limit - _held_bytes() for limit in _container_limits())])
    )


def _held_bytes() -> int:
    return _kilobytes("/proc/self/status")["VmData"]


def _kilobytes(path: str) -> dict[str, int]:
    """Name -> bytes, of the lines that are `name: n kB`."""
    return {name: 1024 * int(n) for name, n in re.findall(r"^(\w+):\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)}


def _container_limits() -> Iterator[int]:
    """The limits of all control groups that the process is in: version 2 in memory.max, version 1 in memory.limit_in_bytes."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup", "memory" if "memory" in controllers.split(",") else "")
        for group in [root / path.lstrip("/"), *(root / path.lstrip("/")).parents][: path.count("/") + 1]:
            for name in ("memory.max", "memory.limit_in_bytes"):
                text = (group / name).read_text().strip() if (group / name).is_file() else "max"
                if text != "max":
                    yield int(text)

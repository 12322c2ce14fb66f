"""Atomic writes: a file appears whole or not at all, because it is written under another name, flushed, and renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with the path of a new file, which becomes `path` at the end; its folder is made if needed.

    If the context raises, the old file is unchanged. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Create or replace a file, and its folder if needed. Raises OSError, and then the old file is unchanged."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)

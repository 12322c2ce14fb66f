"""A file that appears whole or not at all: written beside its place, flushed to the disk, then renamed, which cannot be interrupted."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Make or replace a file, and its folder where there is none. Raises OSError, and then leaves the old file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

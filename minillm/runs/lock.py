"""File lock: one training process a run.

Two processes that train one run would overwrite each other's checkpoints and mix their metrics. The lock is on a file
in the folder of the run; the file contains the number of the process. The operating system releases the lock when the
process ends, even if it is killed. A killed process leaves the file but not the lock, so the run can be resumed.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "training.lock"
FAR = 1 << 30  # subtle: on Windows a locked byte cannot be read, so we lock one far behind the process number


class Taken(ValueError):
    """The folder has a run already, or another process trains in it."""


@contextmanager
def only_trainer(run: Path) -> Iterator[None]:
    """Context that holds the lock on the folder of a run, which is created if it does not exist.

    Raises Taken if another training holds it.
    """
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    file = _take(run / FILE)
    try:
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file; it stays and is used again
            (run / FILE).unlink()
        os.close(file)
        if new:
            with contextlib.suppress(OSError):  # raised if training has written something there
                run.rmdir()


def _take(path: Path) -> int:
    """Open and lock the file at `path`, which is created if it does not exist. Raises Taken."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            os.lseek(file, 0, os.SEEK_SET)
            holder = os.read(file, 20).decode() or "another"
            os.close(file)
            raise Taken(
                f"{path.parent}: expected no other training of this run, found process {holder}; wait for it, or end it"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        os.close(file)  # subtle: the holder removed the file after we opened it, so nobody else would see our lock


def _lock(file: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError or PermissionError if another process holds it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        import msvcrt

        os.lseek(file, FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    except BlockingIOError:
        raise
    except OSError as e:  # a network file system without locks
        print(
            f"this file system has no locks ({e.strerror}): make sure that no other process trains this run",
            file=sys.stderr,
        )

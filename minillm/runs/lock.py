"""One trainer a run: a lock that the operating system gives to a process and takes back however the process ends.

Two processes that train one run would overwrite each other's checkpoints and mix their metrics. The lock is on a file
in the folder of the run, which names the process. A process that is killed leaves the file behind and not the lock, so
that the next one can go on.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "training.lock"
FAR = 1 << 30  # subtle: Windows lets nobody read a locked byte, so it is one far behind the number of the process


class Taken(ValueError):
    """A folder that another training has."""


@contextmanager
def only_trainer(run: Path) -> Iterator[None]:
    """Hold the folder of a run against all other trainings; it is made where there is none.

    Raises Taken where another training holds it.
    """
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    file = _take(run / FILE)
    try:
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # where an open file cannot be removed, it stays, and is taken again
            (run / FILE).unlink()
        os.close(file)
        if new:
            with contextlib.suppress(OSError):  # which is raised where training has left something there
                run.rmdir()


def _take(path: Path) -> int:
    """The file at `path`, made where there is none, and locked. Raises Taken."""
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
        os.close(file)  # subtle: its holder removed it between our opening and our locking it: a lock that nobody sees


def _lock(file: int) -> None:
    """Lock an open file until it is closed. Raises BlockingIOError or PermissionError where another process has."""
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
    except OSError as e:  # a network's file system that knows no locks
        print(
            f"no lock can be had here ({e.strerror}): take care that no other process trains this run", file=sys.stderr
        )

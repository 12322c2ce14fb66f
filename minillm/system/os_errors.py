"""Messages for errors of the operating system: the path, the problem, and the remedy.

Python's own "[Errno 30] Read-only file system: '/mnt/runs'" does not say what to do.
"""

import errno
import sys
from collections.abc import Callable

ADVICE = {  # errno -> (problem, remedy)
    errno.ENOENT: ("expected a file or folder, found none", "check the path"),
    errno.EACCES: ("expected permission to use it, have none", "name another place, or change its permissions"),
    errno.EPERM: ("expected permission to use it, have none", "name another place, or change its permissions"),
    errno.EEXIST: ("expected a folder, or nothing yet, found a file", "name another place, or move the file away"),
    errno.ENOTDIR: ("expected folders before the last name, found a file", "name another place, or move the file away"),
    errno.EISDIR: ("expected a file, found a folder", "name a file, or move the folder away"),
    errno.EROFS: ("expected a place to write to, found a file system that can only be read", "name another place"),
    errno.ENAMETOOLONG: ("expected a shorter path, since the system allows no name of this length", "shorten it"),
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk's quota is used up", "free some space"),
    errno.EFBIG: ("the system allows no file of this size", "free some space, or raise the limit (ulimit -f)"),
}


def sentence(e: BaseException) -> str:
    """One line about an error; for an error that is not of the operating system, its own text.

    >>> sentence(FileNotFoundError(errno.ENOENT, "", "my.txt"))
    'my.txt: expected a file or folder, found none; check the path'
    """
    if not isinstance(e, OSError) or e.errno is None:
        return str(e)
    what, how = advice(e)
    return f"{e.filename}: {what}; {how}" if e.filename is not None else f"{what}; {how}"


def exit_status(command: str, work: Callable[[], object]) -> int:
    """Do the work of a command; return its exit status.

    An error that a user can mend ends it with one line, which begins with the name of the command, and status 2; Ctrl-C
    with status 130.
    """
    try:
        work()
    except (ValueError, OSError) as e:
        print(f"{command}: {sentence(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def advice(e: OSError) -> tuple[str, str]:
    """Problem and remedy of an error."""
    return ADVICE.get(e.errno, (str(e.strerror).lower(), "check the path and its permissions"))

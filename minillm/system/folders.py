"""Folders: the files that ship with minillm, and the cache of prepared data.

A clone has `configs/`, `data/` and the scripts at its top; an installed package has them in `minillm/shipped/` (see
setup.py). Tokens and downloads are in the user's cache folder, because an installed package may not be writable.
"""

import contextlib
import importlib.metadata
import os
import sys
import tempfile
import tomllib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent


def version() -> str:
    """The version of this code: that of its clone, or of the installed package."""
    project = SHIPPED / "pyproject.toml"
    if project.is_file():
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return importlib.metadata.version("minillm")


def cache_folder() -> Path:
    """The user's cache folder for minillm: in $XDG_CACHE_HOME, or the platform's usual place."""
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if asked.is_absolute():  # the XDG standard ignores a relative path
        return asked / "minillm"
    if sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"], "minillm", "Cache")
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as in some containers
        home = Path(tempfile.gettempdir())
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "minillm"


def mark_used(path: Path) -> None:
    """Set a cached file's time to now, so that `prune` removes others first."""
    with contextlib.suppress(OSError):
        os.utime(path)


def prune(folder: Path, pattern: str, n_files: int, n_bytes: int) -> None:
    """Remove the least recently used files of a pattern, until at most `n_files` files and `n_bytes` bytes are left.

    The newest file always stays, however large. Files that cannot be removed are left alone.
    """
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    kept = 0
    for i, (_, size, path) in enumerate(sorted(found, reverse=True)):
        kept += size
        if i and (i >= n_files or kept > n_bytes):
            with contextlib.suppress(OSError):
                path.unlink()

"""Tiny Shakespeare: 1.1 MB of plays in one text, a standard corpus for small language models (Karpathy 2015, char-rnn).

It is downloaded once into the user's cache folder. Its SHA-256 is fixed here, so all runs train on the same bytes.
"""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from minillm.system.atomic import write_atomically
from minillm.system.folders import cache_folder

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
N_BYTES = 1_115_394
TIMEOUT = 10  # seconds without a response


def shakespeare(path: Path | None = None, url: str = URL) -> str:
    """Read the plays from `path` (by default in the user's cache folder), after downloading them if they are not there.

    Raises ValueError when offline, and when the bytes are not the expected ones.
    """
    path = path or cache_folder() / "shakespeare.txt"
    if not path.exists():
        data = _download(url, path)
        _verify(data, f"{url}: the download", f"try again, or put the right file at {path}")
        try:
            write_atomically(path, data)
        except OSError as e:
            raise ValueError(
                f"{path}: cannot be written ({e.strerror}); make the folder writable, or put the file there by hand"
            ) from e
    data = path.read_bytes()
    _verify(data, f"{path}: the file", "delete it, and the next run downloads it again")
    return data.decode()


def _verify(data: bytes, what: str, remedy: str) -> None:
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(
            f"{what} is damaged ({len(data)} bytes): expected {N_BYTES} bytes with SHA-256 {SHA256[:8]}...; {remedy}"
        )


def _download(url: str, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read(N_BYTES + 1)  # one byte too many is enough to see an error
    except (OSError, http.client.HTTPException) as e:
        raise ValueError(
            f"{url}: cannot be downloaded ({e}); put the file at {path} by hand, "
            "or train on a text of yours with --data.corpus my.txt"
        ) from e

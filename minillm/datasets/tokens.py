"""A token stream: documents as one flat array of ids, stored in a file and memory-mapped.

    END d0 END d1 END ... dn END

END stands before the first document and after each one, so every document has an END on both sides. Ids take one, two
or four bytes, depending on the vocabulary. The file's name is a hash of everything that determines its content (the
tokenizer, its source code, the documents), so a stale file is never read. The file begins with a hash of the ids, so a
damaged one is detected and written again. The files are in the user's cache folder; the least recently used ones are
removed.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.system.atomic import write_atomically
from minillm.system.folders import cache_folder, mark_used, prune
from minillm.tokenizers.tokenizer import Tokenizer

FORMAT = b"minillm tokens 1"
DIGEST = hashlib.sha256().digest_size  # bytes at the head of a file
N_FILES, N_BYTES = 64, 2**30  # limits of the folder; the least recently used files go first


class TokenStream(NamedTuple):
    """Encoded documents."""

    ids: np.ndarray  # every id, in the narrowest dtype; read-only, usually mapped from a file
    starts: np.ndarray  # int64: index of the END before each document
    n_bytes: int  # UTF-8 bytes of the documents, for bits per byte


def token_stream(documents: Sequence[str], tokenizer: Tokenizer, cache: Path | None = None) -> TokenStream:
    """Encode documents, or read them from the folder `cache` (by default the user's) if they are there.

    If the folder cannot be written, the ids stay in memory. Raises ValueError for a text that the tokenizer cannot
    represent.
    """
    name, n_bytes = _identity(documents, tokenizer)
    path = (cache or cache_folder() / "tokens") / f"{name}.tokens"
    stream = stored_stream(path, lambda: tokenizer.encode_many(documents), tokenizer, n_bytes)
    assert len(stream.starts) == len(documents), "a text was encoded to END"
    return stream


def stored_stream(
    path: Path, encoded: Callable[[], list[list[int]]], tokenizer: Tokenizer, n_bytes: int
) -> TokenStream:
    """The stream of documents in ids, read from the file `path` if it is there, else `encoded()` and stored there."""
    dtype = narrowest(tokenizer.vocab_size)
    ids = _read(path, dtype)
    mark_used(path)
    if ids is None:
        ids = _concatenate(encoded(), tokenizer, dtype)
        with contextlib.suppress(OSError):
            write_atomically(path, hashlib.sha256(ids).digest() + ids.tobytes())
            ids = np.memmap(path, dtype, mode="r", offset=DIGEST)
            prune(path.parent, "*.tokens*", N_FILES, N_BYTES)
    return TokenStream(ids, np.flatnonzero(ids == tokenizer.end_id)[:-1], n_bytes)


def narrowest(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds ids 0 ... vocab_size - 1, little-endian on every machine.

    >>> [narrowest(vocab_size).itemsize for vocab_size in (256, 257, 65536, 65537)]
    [1, 2, 2, 4]
    """
    return np.dtype("u1" if vocab_size <= 2**8 else "<u2" if vocab_size <= 2**16 else "<u4")


def _concatenate(encoded: list[list[int]], tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray:
    ids = np.empty(1 + sum(len(tokens) + 1 for tokens in encoded), np.int64)
    ids[0], at = tokenizer.end_id, 1
    for tokens in encoded:
        ids[at : at + len(tokens)], ids[at + len(tokens)] = tokens, tokenizer.end_id
        at += len(tokens) + 1
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size, "an id lies outside the vocabulary"
    ids = ids.astype(dtype)
    ids.flags.writeable = False
    return ids


def _identity(documents: Sequence[str], tokenizer: Tokenizer) -> tuple[str, int]:
    """The name of the file for these documents and this tokenizer, and the size of the documents in bytes."""
    code = {vars(sys.modules[cls.__module__]).get("__file__") or "" for cls in type(tokenizer).__mro__}
    # subtle: the hash includes the tokenizer's source code, so that an edit of it is not answered with stale ids
    parts = [FORMAT, json.dumps(tokenizer.to_dict(), sort_keys=True).encode()]
    parts += [Path(file).read_bytes() for file in sorted(code) if os.path.isfile(file)]
    hashed, n_bytes = hashlib.sha256(), 0
    for part in parts:
        hashed.update(len(part).to_bytes(8) + part)
    for document in documents:
        data = document.encode()
        hashed.update(len(data).to_bytes(8) + data)  # without lengths, ["ab", "c"] would equal ["a", "bc"]
        n_bytes += len(data)
    return hashed.hexdigest()[:32], n_bytes


def _read(path: Path, dtype: np.dtype) -> np.ndarray | None:
    """The ids of a file, memory-mapped; None if the file is missing or damaged."""
    try:
        digest = path.open("rb").read(DIGEST)
        ids = np.memmap(path, dtype, mode="r", offset=DIGEST)
    except (OSError, ValueError):  # ValueError: too short, or cut in the middle of an id
        return None
    return ids if hashlib.sha256(ids).digest() == digest else None

"""Documents become one flat array of ids, kept in a file and mapped into memory.

    END d0 END d1 END ... dn END

END stands before the first document and after each one, so every document is announced by an END and closed by one. Ids take
one, two or four bytes each, whichever the vocabulary needs. The file's name is a hash of all that decides its content (the
tokenizer, its source code, the documents), so it never has to be thrown away by hand, and it begins with a hash of the ids,
so a damaged file is noticed and written anew. The files lie in the user's cache folder; those unused for longest are removed.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minillm.system.atomic import write_atomically
from minillm.system.folders import cache_folder, mark_used, prune
from minillm.tokenizers.tokenizer import Tokenizer

FORMAT = b"minillm tokens 1"
DIGEST = hashlib.sha256().digest_size  # bytes at the head of a file
N_FILES, N_BYTES = 64, 2**30  # kept at most, those that were used last


class TokenStream(NamedTuple):
    """A text as a model reads it."""

    ids: np.ndarray  # every id, in the narrowest dtype; read-only, usually mapped from a file
    starts: np.ndarray  # int64: the place of the END before each document
    n_bytes: int  # UTF-8 bytes of the documents, for bits per byte


def token_stream(documents: Sequence[str], tokenizer: Tokenizer, cache: Path | None = None) -> TokenStream:
    """Encode documents, or find them encoded in the folder `cache` (by default the user's).

    Where it cannot be written, the ids stay in memory.
    Raises ValueError for a text that the tokenizer cannot represent.
    """
    name, n_bytes = _identity(documents, tokenizer)
    cache = cache or cache_folder() / "tokens"
    path, dtype = cache / f"{name}.tokens", narrowest(tokenizer.vocab_size)
    ids = _read(path, dtype)
    mark_used(path)
    if ids is None:
        ids = _lay_out(tokenizer.encode_many(documents), tokenizer, dtype)
        with contextlib.suppress(OSError):
            write_atomically(path, hashlib.sha256(ids).digest() + ids.tobytes())
            ids = np.memmap(path, dtype, mode="r", offset=DIGEST)
            prune(cache, "*.tokens*", N_FILES, N_BYTES)
    starts = np.flatnonzero(ids == tokenizer.end_id)[:-1]
    assert len(starts) == len(documents), "an END came out of a text"
    return TokenStream(ids, starts, n_bytes)


def narrowest(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds ids 0 ... vocab_size - 1, little-endian on every machine."""
    return np.dtype("u1" if vocab_size <= 2**8 else "<u2" if vocab_size <= 2**16 else "<u4")


def _lay_out(encoded: list[list[int]], tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray:
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
    """The name of the file for these documents and this tokenizer, and the documents' size in bytes."""
    code = {vars(sys.modules[cls.__module__]).get("__file__") or "" for cls in type(tokenizer).__mro__}
    # subtle: source code counts, so that whoever edits a tokenizer is not served the ids of yesterday
    parts = [FORMAT, json.dumps(tokenizer.to_dict(), sort_keys=True).encode()]
    parts += [Path(file).read_bytes() for file in sorted(code) if os.path.isfile(file)]
    hashed, n_bytes = hashlib.sha256(), 0
    for part in parts:
        hashed.update(len(part).to_bytes(8) + part)
    for document in documents:
        data = document.encode()
        hashed.update(len(data).to_bytes(8) + data)  # the length, or ["ab", "c"] would be ["a", "bc"]
        n_bytes += len(data)
    return hashed.hexdigest()[:32], n_bytes


def _read(path: Path, dtype: np.dtype) -> np.ndarray | None:
    """The ids in a file, mapped; None where there is no such file or where it is damaged."""
    try:
        digest = path.open("rb").read(DIGEST)
        ids = np.memmap(path, dtype, mode="r", offset=DIGEST)
    except (OSError, ValueError):  # ValueError: too short, or cut in the middle of an id
        return None
    return ids if hashlib.sha256(ids).digest() == digest else None

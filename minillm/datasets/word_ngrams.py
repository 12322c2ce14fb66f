"""Hashed word n-grams: each run of n words of a text as one 64-bit number, computed for all runs at once.

The words are hashed one by one, and an n-gram is a weighted sum of its words' hashes, mixed again. Two different
n-grams among a billion share a number with probability 1/40. `near_duplicates` compares sets of them; `quality_rules`
counts them.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np


def ngram_hashes(words: Sequence[str], n: int) -> np.ndarray:
    """The hash of each n-gram of N words, in order. (N - n + 1,) uint64"""
    hashes = np.array([word_hash(word) for word in words], np.uint64)
    weights = np.random.default_rng(n).integers(2**63, size=n, dtype=np.uint64) * 2 + 1
    # subtle: products and sums wrap around at 2^64, as intended in a hash
    sums = (np.lib.stride_tricks.sliding_window_view(hashes, n) * weights).sum(axis=1, dtype=np.uint64)
    return _mixed(sums)


@lru_cache(maxsize=1 << 16)
def word_hash(word: str) -> int:
    """64 bits of BLAKE2b. With 32 bits, two of 80,000 different words would probably share a hash."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _mixed(x: np.ndarray) -> np.ndarray:
    """Mix every bit into all 64 (the finalizer of SplitMix64), so that sums of hashes are hashes again."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))

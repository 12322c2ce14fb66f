"""MinHash: find documents that are nearly equal, without comparing all pairs (Broder 1997).

A document is the set of its word n-grams ("shingles"); the similarity of two documents is the Jaccard index of their
sets, J = |A & B| / |A | B|. Under a random order of all shingles, the minimum of A is the minimum of B with probability
J; so k random orders give signatures of k numbers that agree in J k places on average. A signature is cut into bands of
r numbers; two documents share a whole band with probability 1 - (1 - J^r)^(k/r), a steep S-curve in J. Documents that
share a band are candidates, and their exact J decides: none is removed by chance, and each is compared with few others.
Read before: `lessons/cleaning.py`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from minillm.datasets.word_ngrams import ngram_hashes

MISS_PROBABILITY = 0.001  # upper bound for missing a pair whose Jaccard index is exactly the one asked for


def near_duplicates(documents: Sequence[str], similarity: float, n_words: int, n_hashes: int) -> list[bool]:
    """For each document: whether its Jaccard index with an earlier one that remains is >= similarity.

    A shingle has n_words words, a signature n_hashes numbers.
    """
    rows = rows_per_band(similarity, n_hashes)
    generator = np.random.default_rng(0)
    multipliers = generator.integers(2**63, size=(n_hashes, 1), dtype=np.uint64) * 2 + 1
    offsets = generator.integers(2**63, size=(n_hashes, 1), dtype=np.uint64)
    bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)  # (band, its numbers) -> documents that remain
    sets: dict[int, np.ndarray] = {}
    verdicts = []
    for i, document in enumerate(documents):
        found = shingles(document, n_words)
        numbers = signature(found, multipliers, offsets)
        keys = [(b, numbers[b : b + rows].tobytes()) for b in range(0, n_hashes - rows + 1, rows)]
        candidates = dict.fromkeys(j for key in keys for j in bands[key])
        verdicts.append(any(jaccard(found, sets[j]) >= similarity for j in candidates))
        if not verdicts[-1]:
            sets[i] = found
            for key in keys:
                bands[key].append(i)
    return verdicts


def shingles(text: str, n_words: int) -> np.ndarray:
    """The set of a text's n-grams of lower-case words, as sorted 64-bit hashes. A shorter text is one shingle."""
    words = re.findall(r"\w+", text.lower()) or [text]
    return np.unique(ngram_hashes(words, min(n_words, len(words))))


def signature(found: np.ndarray, multipliers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """MinHash signature: the least shingle under each of k orders h -> (a h + b mod 2^64) / 2^32. (k,) uint32"""
    parts = np.array_split(found, -(-len(found) // 4096))  # bounds the memory for a long document
    least = [((part * multipliers + offsets) >> np.uint64(32)).min(axis=1) for part in parts]
    return np.min(least, axis=0).astype(np.uint32)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard index |A & B| / |A | B| of two sets given as sorted arrays.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def rows_per_band(similarity: float, n_hashes: int) -> int:
    """Numbers in a band: the most, so the fewest candidates, that miss a pair of this similarity rarely enough.

    >>> [rows_per_band(similarity, 128) for similarity in (0.3, 0.5, 0.8)]
    [1, 2, 5]
    """
    fits = [r for r in range(1, n_hashes + 1) if (1 - similarity**r) ** (n_hashes // r) <= MISS_PROBABILITY]
    return max(fits, default=1)

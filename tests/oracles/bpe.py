"""Byte-pair encoding as on a blackboard: count everything anew after each merge. Sennrich et al. 2016."""

from collections import Counter
from itertools import pairwise

Pair = tuple[bytes, bytes]


def join(word: list[bytes], pair: Pair) -> list[bytes]:
    joined = []
    while word:
        if tuple(word[:2]) == pair:
            joined, word = [*joined, word[0] + word[1]], word[2:]
        else:
            joined, word = [*joined, word[0]], word[1:]
    return joined


def train(words: list[bytes], n_merges: int) -> tuple[list[Pair], list[list[bytes]]]:
    """The merges, and the words as they are segmented after the last of them."""
    merges, segmented = [], [[bytes([byte]) for byte in word] for word in words]
    for _ in range(n_merges):
        counts = Counter(pair for word in segmented for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        segmented = [join(word, best) for word in segmented]
    return merges, segmented


def encode(word: bytes, merges: list[Pair]) -> list[bytes]:
    """One at a time, join the pair that was learned first of those there are, at the first place where it is."""
    symbols = [bytes([byte]) for byte in word]
    while present := [(merges.index(pair), i) for i, pair in enumerate(pairwise(symbols)) if pair in merges]:
        _, i = min(present)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols

"""Byte-pair encoding (BPE): start from single bytes and repeatedly merge the most frequent pair of neighbors.

    merge_i = argmax over pairs (x, y) of count(x y in the words after the merges 1 ... i-1)

Of equally frequent pairs the first in byte order is merged; training stops when no pair occurs twice. A new word is
encoded with the same merges, in the order in which they were learned. Frequent words become one token, rare words
several, and no word is unknown, since every byte is a token. The vocabulary has 256 tokens for bytes and one for each
merge.

Paper: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units"; Gage 1994.
Read before: nothing.
Then read: minillm/tokenizers/bpe.py, minillm/tokenizers/pretokenize.py
Try: python train.py --config gpt-tiny --tokenizer.kind bpe

Change it:
    - N_MERGES = 4
    + N_MERGES = 2
Shown: lowest -> l o w est
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

WORDS = 5 * ["low"] + 2 * ["lower"] + 6 * ["newest"] + 3 * ["widest"]
N_MERGES = 4

Pair = tuple[bytes, bytes]


def split(word: bytes) -> list[bytes]:
    """The bytes of a word, each a symbol."""
    return [bytes([byte]) for byte in word]


def merge(symbols: list[bytes], pair: Pair) -> list[bytes]:
    """Join each occurrence of the pair, from the left."""
    merged, i = [], 0
    while i < len(symbols):
        n = 2 if tuple(symbols[i : i + 2]) == pair else 1
        merged.append(b"".join(symbols[i : i + n]))
        i += n
    return merged


def count_pairs(words: Sequence[list[bytes]]) -> Counter[Pair]:
    """How often each pair of neighboring symbols occurs."""
    return Counter(pair for symbols in words for pair in pairwise(symbols))


def train(words: Sequence[bytes], n_merges: int) -> tuple[list[Pair], list[list[bytes]]]:
    """The merges in the order in which they are learned, and the words as they are segmented after the last merge."""
    merges, segmented = [], [split(word) for word in words]
    for _ in range(n_merges):
        counts = count_pairs(segmented)
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        merges.append(best)
        segmented = [merge(symbols, best) for symbols in segmented]
    return merges, segmented


def encode(word: bytes, merges: list[Pair]) -> list[bytes]:
    """The symbols of a word: again and again, merge the first occurrence of the earliest learned pair in it."""
    symbols = split(word)
    while learned := [(merges.index(pair), i) for i, pair in enumerate(pairwise(symbols)) if pair in merges]:
        _, i = min(learned)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def main() -> None:
    """The merges of a few words, then the encoding of new words."""
    print("words:", ", ".join(f"{word} {n} times" for word, n in Counter(WORDS).items()), "\n")
    words = [word.encode() for word in WORDS]
    merges, segmented = train(words, N_MERGES)
    for i, (left, right) in enumerate(merges):
        counts = count_pairs(train(words, i)[1])
        rivals = ", ".join(f"{(x + y).decode()} {n}" for (x, y), n in counts.most_common(4))
        print(f"merge {i + 1}: {left.decode()} + {right.decode()}".ljust(20), f"most frequent pairs: {rivals}")
    print("\nthe words now:", *dict.fromkeys("|".join(map(bytes.decode, symbols)) for symbols in segmented))
    print("new words, the last with a letter of two bytes:")
    for word in ("lowest", "newer", "löw"):
        symbols = encode(word.encode(), merges)
        print(f"{word} -> {' '.join(symbol.decode(errors='backslashreplace') for symbol in symbols)}")


if __name__ == "__main__":
    main()

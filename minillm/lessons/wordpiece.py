"""WordPiece: merge the pair that is most frequent for its parts, and encode by the longest piece that fits.

    score(x, y) = count(x y) / (count(x) count(y))

BPE merges the most frequent pair, so common letters merge first, whether or not they belong together. WordPiece divides
by the counts of the two parts: "q" and "u" are rare, but always together. A piece that continues a word is written with
## before it. A new word needs no list of merges: take the longest piece with which it begins, then the longest with
which the rest begins. A word that cannot be finished is unknown. BERT uses such a vocabulary of 30,000 pieces.

Paper: Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; Devlin et al. 2019 (BERT).
Read before: bpe (the other score).
Then read: minillm/tokenizers/wordpiece.py, minillm/tokenizers/bert_words.py
Try: python train.py --config gpt-tiny --tokenizer.kind wordpiece

Change it:
    - return -n / (singles[x] * singles[y])
    + return -n
Shown: merge 1: ##e + ##e -> ##ee
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

WORDS = 4 * ["queen"] + 3 * ["quest"] + 5 * ["seen"] + 5 * ["need"] + 6 * ["test"]
N_MERGES = 6


def split(word: str) -> list[str]:
    """The characters of a word, all but the first marked as continuing it."""
    return [char if i == 0 else "##" + char for i, char in enumerate(word)]


def join(left: str, right: str) -> str:
    """The piece of two neighbors."""
    return left + right.removeprefix("##")


def merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Join each occurrence of the pair, from the left."""
    merged, i = [], 0
    while i < len(symbols):
        found = tuple(symbols[i : i + 2]) == pair
        merged.append(join(*pair) if found else symbols[i])
        i += 2 if found else 1
    return merged


def order(pair: tuple[str, str], n: int, singles: Counter[str]) -> float:
    """The pair with the least value is merged: that with the highest score."""
    x, y = pair
    return -n / (singles[x] * singles[y])


def train(words: Sequence[str], n_merges: int) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The pairs in the order in which they are merged, and the words as they are segmented after the last merge.

    Of equal scores the first pair in order is taken; a pair must occur twice.
    """
    merges, segmented = [], [split(word) for word in words]
    for _ in range(n_merges):
        singles = Counter(symbol for symbols in segmented for symbol in symbols)
        pairs = Counter(pair for symbols in segmented for pair in pairwise(symbols))
        twice = {pair: n for pair, n in pairs.items() if n >= 2}
        if not twice:
            break
        merges.append(min(twice, key=lambda pair: (order(pair, twice[pair], singles), pair)))
        segmented = [merge(symbols, merges[-1]) for symbols in segmented]
    return merges, segmented


def encode(word: str, pieces: Collection[str]) -> list[str]:
    """The longest piece that fits, again and again; [UNK] for the whole word if none fits somewhere."""
    found, begin = [], 0
    while begin < len(word):
        candidates = [("##" if begin else "") + word[begin:end] for end in range(len(word), begin, -1)]
        fits = [piece for piece in candidates if piece in pieces]
        if not fits:
            return ["[UNK]"]
        found.append(fits[0])
        begin += len(fits[0].removeprefix("##"))
    return found


def main() -> None:
    """The merges of a few words, then the encoding of new words."""
    print("words:", ", ".join(f"{word} {n} times" for word, n in Counter(WORDS).items()), "\n")
    merges, segmented = train(WORDS, N_MERGES)
    for i, (left, right) in enumerate(merges):
        print(f"merge {i + 1}: {left} + {right} -> {join(left, right)}")
    print("\nthe words now:", *dict.fromkeys(" ".join(symbols) + "," for symbols in segmented))
    pieces = {symbol for word in WORDS for symbol in split(word)} | {join(*pair) for pair in merges}
    for word in ("quested", "tests", "seed", "equal"):
        print(f"{word} -> {' '.join(encode(word, pieces))}")


if __name__ == "__main__":
    main()

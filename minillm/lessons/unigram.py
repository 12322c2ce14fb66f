"""Unigram tokenizer: every piece has a probability, and a word is split into the most probable sequence of pieces.

    P(x) = product of p(piece) over the pieces of the segmentation x        P(word) = sum of P(x) over all x

Training begins with every substring that occurs twice. Expectation-maximization fits p without known segmentations:
each segmentation counts with the weight P(x) / P(word), and p becomes the share of each piece in these counts. Then the
piece with the least effect on the likelihood is removed, and so on until few are left. Single characters are kept. The
Viterbi algorithm finds the best segmentation without listing all of them.

Paper: Kudo 2018, "Subword Regularization".
Read before: bpe (another way to learn pieces).
Then read: minillm/tokenizers/unigram.py
Try: python train.py --config gpt-tiny --tokenizer.kind unigram

Change it:
    - counts[piece] += n * probability(x, p) / total
    + counts[piece] += n / len(every)
Shown: slowest -> s lo w e st
"""

import math
from collections import Counter
from collections.abc import Mapping

WORDS = dict.fromkeys(["low", "lower", "lowest", "new", "newer", "newest", "wide", "wider", "widest"], 1)  # word: count


def segmentations(word, p: Mapping) -> list[list]:
    """All ways to cut a word into pieces."""
    starts = [(word[:n], word[n:]) for n in range(1, len(word) + 1) if word[:n] in p]
    return [[piece, *others] for piece, rest in starts for others in segmentations(rest, p)] if word else [[]]


def probability(x: list, p: Mapping) -> float:
    """P(x), the product over its pieces."""
    return math.prod(p[piece] for piece in x)


def expected_counts(words: Mapping, p: Mapping) -> Counter:
    """Expected number of occurrences of each piece in words {word: count}; segmentations weighted by probability."""
    counts = Counter()
    for word, n in words.items():
        every = segmentations(word, p)
        total = sum(probability(x, p) for x in every)
        for x in every:
            for piece in x:
                counts[piece] += n * probability(x, p) / total
    return counts


def cost(piece, counts: Mapping, p: Mapping) -> float:
    """The approximate loss of log-likelihood, in nats, if a piece is replaced by its best segmentation."""
    others = {other: p[other] for other in p if other != piece}
    instead = max(probability(x, others) for x in segmentations(piece, others))
    return counts[piece] * (math.log(p[piece]) - math.log(instead))


def train(words: Mapping, n_learned: int) -> dict:
    """The probabilities of the single characters and of `n_learned` longer pieces."""
    substrings = Counter(word[i:j] for word in words for j in range(1, len(word) + 1) for i in range(j))
    p = {piece: 1.0 for piece in sorted(substrings) if len(piece) == 1 or substrings[piece] > 1}
    while True:
        for _ in range(2):
            counts = expected_counts(words, p)
            p = {piece: max(counts[piece] / counts.total(), 1e-9) for piece in p}  # no piece gets probability 0
        learned = [piece for piece in p if len(piece) > 1]
        if len(learned) <= n_learned:
            return p
        del p[min(learned, key=lambda piece: cost(piece, counts, p))]


def encode(word, p: Mapping) -> list:
    """Viterbi: the best segmentation of each prefix of a word is that of a shorter prefix, plus one piece."""
    best = {0: (1.0, [])}
    for end in range(1, len(word) + 1):
        starts = [start for start in best if word[start:end] in p]
        ways = [(best[start][0] * p[word[start:end]], [*best[start][1], word[start:end]]) for start in starts]
        best |= {end: max(ways, key=lambda way: way[0])} if ways else {}
    return best[len(word)][1]


def main() -> None:
    """One word by hand, then stems and endings learned from nine words."""
    p = {"a": 0.4, "b": 0.3, "ab": 0.3}
    print("p(a) = 0.4, p(b) = 0.3, p(ab) = 0.3; the segmentations x of 'abab' and P(x):")
    for x in segmentations("abab", p):
        print(f"  {' '.join(x):<8} {probability(x, p):.4f}")
    print(f"expected count of 'ab': (2 * 0.0900 + 2 * 0.0360) / 0.1764 = {expected_counts({'abab': 1}, p)['ab']:.4f}")
    p = train(WORDS, n_learned=5)
    print("\nwords:", *WORDS)
    print("learned:", *(f"{piece} {p[piece]:.2f} " for piece in p if len(piece) > 1))
    for word in ("widest", "slowest", "newness"):
        pieces, every = encode(word, p), segmentations(word, p)
        best = max(probability(x, p) for x in every)
        print(f"{word} -> {' '.join(pieces)}   P = {probability(pieces, p):.2g}, the best of {len(every)}: {best:.2g}")


if __name__ == "__main__":
    main()

"""Smoothing: give every token a probability above 0 after every context, with a sum of 1.

    add-k            P(w | h) = (c(h w) + k) / (c(h) + k V)
    Kneser-Ney       P(w | h) = max(c(h w) - d, 0) / c(h)  +  d n(h) / c(h) * P(w | h')
    stupid backoff   S(w | h) = c(h w) / c(h)  if w followed h,  else  b S(w | h')

V is the size of the vocabulary, h' is h without its first token, and n(h) is how many different tokens followed h. If a
context never occurred, h' is used instead; the last resort, after the empty context, is the uniform 1 / V. Kneser-Ney
interpolates: it takes d from each count and distributes the total by P(w | h'). For orders below the highest its
c(h w) is the number of different tokens that precede h w. S is a score, not a probability.

Paper: Kneser and Ney 1995, "Improved Backing-off for M-gram Language Modeling"; Brants et al. 2007.
Read before: ngram.
Then read: minillm/models/smoothing.py
Try: python train.py --config ngram-tiny --model.smoothing add-k

Change it:
    - counts.update(longer[1:] for longer in count_ngrams(texts, n + 1))
    + counts.update(count_ngrams(texts, n))
Shown: Kneser-Ney says Francisco
"""

from collections import Counter
from collections.abc import Sequence

from minillm.lessons.ngram import SENTENCES, count_ngrams, followers


def all_counts(texts: Sequence[Sequence], order: int) -> Counter[tuple]:
    """c(h w) of add-k and stupid backoff: how often each n-gram of 1 ... order tokens occurs."""
    return sum((count_ngrams(texts, n) for n in range(1, order + 1)), Counter())


def kneser_ney_counts(texts: Sequence[Sequence], order: int) -> Counter[tuple]:
    """c(h w) of Kneser-Ney: occurrences for the highest order, different preceding tokens for lower ones."""
    counts = count_ngrams(texts, order)
    for n in range(1, order):
        counts.update(longer[1:] for longer in count_ngrams(texts, n + 1))
        counts.update(tuple(text[:n]) for text in texts if 2 <= n <= len(text))  # the beginning of a text counts too
    return counts


def add_k(token: object, context: tuple, counts: Counter[tuple], vocab_size: int, k: float) -> float:
    """P(w | h), as if each token had followed each context k more times."""
    seen = followers(context, counts)
    if context and not seen:
        return add_k(token, context[1:], counts, vocab_size, k)
    return (seen.get(token, 0) + k) / (sum(seen.values()) + k * vocab_size)


def kneser_ney(token: object, context: tuple, counts: Counter[tuple], vocab_size: int, discount: float) -> float:
    """P(w | h), interpolated with P(w | h'); the counts are those of `kneser_ney_counts`."""
    shorter = kneser_ney(token, context[1:], counts, vocab_size, discount) if context else 1 / vocab_size
    seen = followers(context, counts)
    if not seen:
        return shorter
    total = sum(seen.values())
    return max(seen.get(token, 0) - discount, 0) / total + discount * len(seen) / total * shorter


def stupid_backoff(token: object, context: tuple, counts: Counter[tuple], vocab_size: int, backoff: float) -> float:
    """The score S(w | h). Divide by the sum over all tokens to get a probability."""
    seen = followers(context, counts)
    if token in seen:
        return seen[token] / sum(seen.values())
    return backoff * (stupid_backoff(token, context[1:], counts, vocab_size, backoff) if context else 1 / vocab_size)


def main() -> None:
    """Three smoothings of a trigram table, after a seen and an unseen context; then the advantage of Kneser-Ney."""
    texts = [sentence.split() for sentence in SENTENCES]
    words, counts = ["I", "You", "love", "deep", "machine", "learning"], all_counts(texts, 3)
    different = kneser_ney_counts(texts, 3)
    for context, seen in ((("You", "love"), "seen once, before 'machine'"), (("deep", "love"), "never seen")):
        print(f"after {' '.join(context)!r}, {seen}:\n{'':10}  add-1  Kneser-Ney  stupid backoff")
        sums = [0.0, 0.0, 0.0]
        for word in words:
            row = (
                add_k(word, context, counts, len(words), k=1.0),
                kneser_ney(word, context, different, len(words), discount=0.75),
                stupid_backoff(word, context, counts, len(words), backoff=0.4),
            )
            sums = [total + p for total, p in zip(sums, row, strict=True)]
            print(f"{word:<10}{row[0]:7.3f}{row[1]:12.3f}{row[2]:16.3f}")
        print(f"{'sum':<10}{sums[0]:7.3f}{sums[1]:12.3f}{sums[2]:16.3f}  (scores)\n")
    print("by hand: add-1 (1 + 1) / (1 + 6) = 0.286, Kneser-Ney (1 - 0.75) / 1 + 0.75 * 1 / 1 * 0.479 = 0.609")

    texts = 9 * [["San", "Francisco"]] + [["my", "glasses"], ["new", "glasses"], ["old", "glasses"]]
    print("\nFrancisco occurs 9 times, only after San; glasses 3 times, after three words. After an unknown word,")
    rules = ("add-1", add_k, all_counts(texts, 2), 1.0), ("Kneser-Ney", kneser_ney, kneser_ney_counts(texts, 2), 0.75)
    for name, rule, counts, amount in rules:
        p = {word: rule(word, ("unknown",), counts, 6, amount) for word in ("Francisco", "glasses")}
        print(f"{name} says {max(p, key=p.__getitem__)}:", ", ".join(f"{word} {p[word]:.3f}" for word in p))


if __name__ == "__main__":
    main()

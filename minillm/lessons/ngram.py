"""N-gram model: predict the next token from the last n - 1 tokens, by counting which tokens followed them in a text.

    P(w | h) = c(h w) / c(h)

The context h is the last n - 1 tokens. c(h w) is how often the token w followed h in the text, and c(h) is the sum of
these counts over all w. Training reads the text once; the model is the table of counts.

Paper: Shannon 1948, "A Mathematical Theory of Communication".
Read before: nothing.
Then read: minillm/models/ngram.py
Try: python -m minillm.models.ngram "I love machine learning. I love deep learning. You love machine learning."

Change it:
    - ORDER = 3
    + ORDER = 2
Shown: P(You love deep learning) = 0.33
"""

import math
from collections import Counter
from collections.abc import Sequence

SENTENCES = ("I love machine learning", "I love deep learning", "You love machine learning")
ORDER = 3  # tokens in an n-gram: n - 1 tokens of context and the next one


def count_ngrams(texts: Sequence[Sequence], n: int) -> Counter[tuple]:
    """How often each n-gram occurs. The first token of a text is given, not predicted, so no n-gram ends there."""
    return Counter(tuple(text[end - n : end]) for text in texts for end in range(max(n, 2), len(text) + 1))


def followers(context: tuple, counts: Counter[tuple]) -> dict:
    """The tokens w that followed the context h, each with c(h w)."""
    return {ngram[-1]: n for ngram, n in counts.items() if ngram[:-1] == context}


def probabilities(context: tuple, counts: Counter[tuple]) -> dict:
    """The tokens w that followed the context h, each with P(w | h); {} if h never occurred."""
    seen = followers(context, counts)
    return {token: n / sum(seen.values()) for token, n in seen.items()}


def text_probability(text: Sequence, counts: Counter[tuple], n: int) -> float:
    """The product of P(w | h) over the tokens of a text; its first n - 1 tokens are given."""
    contexts = [tuple(text[i - n + 1 : i]) for i in range(n - 1, len(text))]
    return math.prod(probabilities(h, counts).get(w, 0.0) for h, w in zip(contexts, text[n - 1 :], strict=True))


def main() -> None:
    """The table of three sentences, a continued text, and the probabilities of two texts."""
    texts = [sentence.split() for sentence in SENTENCES]
    counts = count_ngrams(texts, ORDER)
    print("three sentences:", *(f"{sentence}." for sentence in SENTENCES))
    print(f"their {len(counts)} different n-grams of {ORDER} words, as  h -> w   c(h w) / c(h) = P(w | h):\n")
    for ngram, n in counts.items():
        context, token = ngram[:-1], ngram[-1]
        total, p = sum(followers(context, counts).values()), probabilities(context, counts)[token]
        print(f"{' '.join(context):>12} -> {token:<8}  {n} / {total} = {p:.2f}")

    written = ["You", "love"]
    for _ in range(4):
        p = probabilities(tuple(written[-ORDER + 1 :]), counts)
        written += [max(p, key=p.__getitem__)] if p else []
    print("\n'You love' is continued by the most probable words:", *written)
    for text in ("You love machine learning", "You love deep learning"):
        print(f"P({text}) = {text_probability(text.split(), counts, ORDER):.2f}")
    print("A token that never followed a context has probability 0; the lesson `smoothing` changes that.")


if __name__ == "__main__":
    main()

"""Best of N: sample several texts and keep the one with the best score (Stiennon et al. 2020, with a reward model).

The default score is the mean log-probability of a text's tokens, END included, under the untransformed model; a sum
would favor short texts. Nearly equal texts count as one candidate: if the overlap of two texts,

    overlap(a, b) = |n-grams of both| / |n-grams of either|                                             Jaccard 1901

reaches a threshold, only the better one is kept. So the second best is a different text. Read before: `generate`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minillm.config.fields import Count, Fraction, Positive, validate
from minillm.decoding.rows import Completion

Scorer = Callable[[Completion], float]  # the higher, the better


@dataclass(frozen=True)
class BestOfConfig:
    """Best of N: the number of candidates, and the overlap from which two count as the same."""

    best_of: Count = 0  # write this many texts and show the best, by log-probability per token; 0: off
    same_overlap: Fraction = (
        0.9  # beside --best-of: texts that share this much of their n-grams are one candidate; 1: only equal texts
    )
    same_n: Positive = 3  # beside --best-of: length of those n-grams

    def __post_init__(self) -> None:
        validate(self)


class Ranked(NamedTuple):
    """The index of a completion in the list that was ranked, and its score."""

    index: int
    score: float


def mean_logprob(completion: Completion) -> float:
    """Mean logprob in nats per token; minus infinity if no token was drawn."""
    return math.fsum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else -math.inf


def rank(completions: Sequence[Completion], config: BestOfConfig, score: Scorer = mean_logprob) -> list[Ranked]:
    """The distinct completions, the best first. The order of the input does not change which texts are kept.

    Raises ValueError for a score of nan.
    """
    scores = [score(completion) for completion in completions]
    if any(math.isnan(s) for s in scores):
        first = [math.isnan(s) for s in scores].index(True)
        raise ValueError(f"score = nan of completion {first}: expected a number; correct the scorer")
    kept: list[Ranked] = []
    for i in sorted(range(len(completions)), key=lambda i: (-scores[i], completions[i].tokens)):
        overlaps = (overlap(completions[i].tokens, completions[other.index].tokens, config.same_n) for other in kept)
        if all(share < config.same_overlap for share in overlaps):
            kept.append(Ranked(i, scores[i]))
    return kept


def overlap(a: Sequence[int], b: Sequence[int], n: int) -> float:
    """Jaccard overlap of the n-grams of two texts; 1 for equal texts, 0 if unequal and one has fewer than n tokens."""
    if list(a) == list(b):
        return 1.0
    if min(len(a), len(b)) < n:
        return 0.0
    grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])

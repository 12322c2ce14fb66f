"""Best of N: write several texts and keep the best, as some scorer judges (Stiennon et al. 2020, with a reward model).

The score by default is the mean log-probability of a text's tokens, END among them, under the untransformed model; the
sum would prefer whatever is short. Texts that say nearly the same are one candidate: of those that share enough of
their n-grams,

    overlap(a, b) = |n-grams of both| / |n-grams of either|                                                          Jaccard 1901

only the best is kept, so that the second best is another text and not the same again. Read `generate` before this.
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
    """Best of N: the number of candidates, and the overlap at which two count as the same."""

    best_of: Count = 0  # write so many texts and show the best, by log-probability per token; 0: off
    same_overlap: Fraction = (
        0.9  # beside --best-of: texts that share this much of their n-grams are one candidate; 1: only equal texts
    )
    same_n: Positive = 3  # beside --best-of: length of those n-grams

    def __post_init__(self) -> None:
        validate(self)


class Ranked(NamedTuple):
    """A completion's place in the order that it was given, and what it scored."""

    index: int
    score: float


def mean_logprob(completion: Completion) -> float:
    """Nats per token; minus infinity where nothing was drawn."""
    return math.fsum(completion.logprobs) / len(completion.logprobs) if completion.logprobs else -math.inf


def rank(completions: Sequence[Completion], config: BestOfConfig, score: Scorer = mean_logprob) -> list[Ranked]:
    """The different completions, the best first. What comes out does not depend on the order in which they were given.

    Raises ValueError for a score that is not a number.
    """
    scores = [score(completion) for completion in completions]
    if any(math.isnan(s) for s in scores):
        raise ValueError(
            f"score = nan of completion {[math.isnan(s) for s in scores].index(True)}: expected a number; mend the scorer"
        )
    kept: list[Ranked] = []
    for i in sorted(range(len(completions)), key=lambda i: (-scores[i], completions[i].tokens)):
        overlaps = (overlap(completions[i].tokens, completions[other.index].tokens, config.same_n) for other in kept)
        if all(share < config.same_overlap for share in overlaps):
            kept.append(Ranked(i, scores[i]))
    return kept


def overlap(a: Sequence[int], b: Sequence[int], n: int) -> float:
    """The share of their n-grams that two texts have in common, 1 for equal texts and for no others of fewer than n tokens."""
    if list(a) == list(b):
        return 1.0
    if min(len(a), len(b)) < n:
        return 0.0
    grams = [{tuple(text[i : i + n]) for i in range(len(text) - n + 1)} for text in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])

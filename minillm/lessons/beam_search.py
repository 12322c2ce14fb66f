"""Beam search: keep the N most probable prefixes of a text, and extend all of them at every step.

    score = logprob / length^alpha       logprob: the sum of the log probabilities of the new tokens, END included

Greedy decoding takes the best next token and may miss the best text, which need not begin with the best token. Beam
search extends each of its N prefixes (beams) by every token and keeps the 2N most probable results. Texts with END
among the first N of these are finished; the first N of the others are extended next. A sum of logs can only fall, so
alpha = 0 favors short texts; alpha = 1 compares means. The search ends when N texts are finished and no prefix is
expected to get a better score. `likely` expects that the score of a prefix does not change.

Paper: Lowerre 1976, "The HARPY Speech Recognition System"; Wu et al. 2016 (length penalty).
Read before: generation.
Then read: minillm/decoding/beam.py
Try: python sample.py --beams 4 --num-return 2

Change it:
    - beams = [(logprob, new) for logprob, new in candidates if new[-1] != end_id][:n_beams]
    + beams = [(logprob, new) for logprob, new in candidates if new[-1] != end_id][:1]
Shown: N = 2: red car
"""

import math
from collections.abc import Callable, Sequence

WORDS = ("red", "old", "yes", "car", "barn", "END")
FOLLOWS = {  # last word -> probability of each next word; after any other word the text ends
    "": {"red": 0.45, "old": 0.35, "yes": 0.2},
    "red": {"car": 0.4, "barn": 0.4, "END": 0.2},
    "old": {"car": 0.9, "END": 0.1},
}


def likely(logprob: float, length: int, longest: int, alpha: float) -> float:
    """The expected final score of a prefix of `length` tokens, for a text of at most `longest`: its present score."""
    return logprob / length**alpha


def beam_search(
    model: Callable[[Sequence[int]], Sequence[float]],
    prompt: Sequence[int],
    n_beams: int,
    alpha: float,
    max_new_tokens: int,
    end_id: int,
    expected: Callable[[float, int, int, float], float] = likely,
) -> list[tuple[float, list[int]]]:
    """The score and the new tokens of at most N texts, the best first. The model returns log probabilities (V,)."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for n in range(1, max_new_tokens + 1):
        candidates = []
        for logprob, new in beams:
            after = enumerate(model([*prompt, *new]))
            candidates += [(logprob + x, [*new, token]) for token, x in after if x > -math.inf]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * n_beams]
        for logprob, new in candidates[:n_beams]:
            if new[-1] == end_id or n == max_new_tokens:
                finished.append((logprob / n**alpha, new))
        finished = sorted(finished, key=lambda text: -text[0])[:n_beams]
        beams = [(logprob, new) for logprob, new in candidates if new[-1] != end_id][:n_beams]
        if not beams:
            break
        if len(finished) == n_beams and expected(beams[0][0], n, max_new_tokens, alpha) <= finished[-1][0]:
            break
    return finished


def main() -> None:
    """A model that is a table, small enough to find the best text by hand: greedy misses it, two beams find it."""

    def model(tokens: Sequence[int]) -> list[float]:
        after = FOLLOWS.get(WORDS[tokens[-1]] if tokens else "", {"END": 1.0})
        return [math.log(after[word]) if word in after else -math.inf for word in WORDS]

    def search(n_beams: int, alpha: float) -> list[tuple[float, str]]:
        found = beam_search(model, [], n_beams, alpha, max_new_tokens=3, end_id=WORDS.index("END"))
        return [(score, " ".join(WORDS[token] for token in new)) for score, new in found]

    for word, after in FOLLOWS.items():
        print(f"after {word!r:<6}", *(f"{other} {p}  " for other, p in after.items()))
    for n_beams in (1, 2):
        score, text = search(n_beams, alpha=0)[0]
        print(f"N = {n_beams}: {text}, with probability {math.exp(score):.3f}")
    print("by hand: 0.45 * 0.4 = 0.180 and 0.35 * 0.9 = 0.315")
    for alpha in (0, 1):
        print(f"\nall texts (N = 10), alpha = {alpha}: the score is logprob / length^{alpha}")
        print("\n".join(f"{score:8.3f}  {text}" for score, text in search(10, alpha)))


if __name__ == "__main__":
    main()

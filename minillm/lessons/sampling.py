"""Sampling filters: reshape the distribution of the next token, or cut off its tail, before a token is drawn.

    temperature   softmax(logits / t): below 1 sharper, above 1 flatter, 0 greedy
    top-k         the k most probable tokens
    top-p         the smallest set of most probable tokens whose cumulative probability reaches p (the nucleus)
    min-p         the tokens at least min_p times as probable as the best one
    typical       the smallest set whose mass reaches p, in the order of |-ln p(token) - entropy|

After each filter the remaining probabilities are divided by their sum, so the order of the filters matters; it is the
order above. A repetition penalty comes before them and changes the logits of tokens that the text already contains.

Paper: Fan et al. 2018 (top-k); Holtzman et al. 2019 (top-p); Meister et al. 2022 (typical); Nguyen et al. 2024 (min-p).
Read before: generation.
Then read: minillm/decoding/transforms.py, minillm/decoding/penalties.py, minillm/decoding/sampler.py
Try: python sample.py --temperature 0.8 --top-p 0.9

Change it:
    - if p < 1 and sum(kept.values()) >= p - ROUNDING:
    + if p < 1 and sum(kept.values()) > p + ROUNDING:
Shown: top-p 0.7          A 0.471   B 0.353   C 0.176
"""

import math
from collections.abc import Collection, Sequence

Probs = dict[int, float]  # token -> probability; removed tokens are missing
ROUNDING = 1e-12  # 0.4 + 0.3 + 0.2 is a little less than 0.9 in floating point


def normalized(probs: Probs) -> Probs:
    return {token: p / sum(probs.values()) for token, p in probs.items()}


def temperature(logits: list[float], t: float) -> Probs:
    if t == 0:
        return {logits.index(max(logits)): 1.0}
    return normalized({token: math.exp((logit - max(logits)) / t) for token, logit in enumerate(logits)})


def most_probable_first(probs: Probs) -> list[int]:
    return sorted(probs, key=lambda token: (-probs[token], token))


def top_k(probs: Probs, k: int) -> Probs:
    return normalized({token: probs[token] for token in most_probable_first(probs)[:k]})


def smallest_set(probs: Probs, ranking: Sequence[int], p: float) -> Probs:
    """The first tokens of a ranking, as few as reach the mass p; the token that reaches p is kept. p = 1 keeps all."""
    kept: Probs = {}
    for token in ranking:
        kept[token] = probs[token]
        if p < 1 and sum(kept.values()) >= p - ROUNDING:
            break
    return normalized(kept)


def top_p(probs: Probs, p: float) -> Probs:
    return smallest_set(probs, most_probable_first(probs), p)


def min_p(probs: Probs, fraction: float) -> Probs:
    least = fraction * max(probs.values()) * (1 - ROUNDING)
    return normalized({token: p for token, p in probs.items() if p >= least})


def typical(probs: Probs, p: float) -> Probs:
    surprise = {token: -math.log(q) if q else math.inf for token, q in probs.items()}
    entropy = sum(q * surprise[token] for token, q in probs.items() if q)
    return smallest_set(probs, sorted(probs, key=lambda token: (abs(surprise[token] - entropy), token)), p)


def repetition_penalty(logits: list[float], history: Collection[int], theta: float) -> list[float]:
    """Divide positive logits of tokens in the history by theta, multiply negative ones; repeats count once."""
    factors = [1.0 if token not in history else 1 / theta if x > 0 else theta for token, x in enumerate(logits)]
    return [x * factor for x, factor in zip(logits, factors, strict=True)]


def main() -> None:
    """Five tokens, A to E: each filter by itself, and two filters in both orders."""

    def show(name: str, probs: Probs) -> None:
        print(f"{name:<18}", "  ".join(f"{'ABCDE'[token]} {p:.3f} " for token, p in sorted(probs.items())))

    logits = [math.log(p) for p in (0.4, 0.3, 0.15, 0.08, 0.07)]
    probs = temperature(logits, 1)
    show("temperature 1", probs)
    show("temperature 0.5", temperature(logits, 0.5))
    show("top-k 2", top_k(probs, 2))
    show("top-p 0.9", top_p(probs, 0.9))
    show("top-p 0.7", top_p(probs, 0.7))
    show("min-p 0.25", min_p(probs, 0.25))
    show("typical 0.3", typical(probs, 0.3))
    show("A seen, theta 1.5", temperature(repetition_penalty(logits, [0], 1.5), 1))
    print("\nthe order matters: temperature 2, then top-p 0.7; and top-p 0.7, then temperature 2")
    show("flatter, then cut", top_p(temperature(logits, 2), 0.7))
    show("cut, then flatter", temperature(logits[:2], 2))  # top-p 0.7 keeps A and B


if __name__ == "__main__":
    main()

"""Oracle of the sampling pipeline: the filters of the lesson on sampling, in plain Python, in the same order."""

from collections.abc import Sequence

from minillm.lessons import sampling


def filtered(
    logits: Sequence[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
) -> list[float]:
    """The probability of each token, in order; 0 for tokens that were cut."""
    probs = sampling.temperature(list(logits), temperature)
    probs = sampling.top_k(probs, top_k or len(probs))
    probs = sampling.top_p(probs, top_p)
    probs = sampling.min_p(probs, min_p)
    probs = sampling.typical(probs, typical_p)
    return [probs.get(token, 0.0) for token in range(len(logits))]

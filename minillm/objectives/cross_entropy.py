"""Cross-entropy: the negative log-probability that a model gives to the true next tokens, in nats.

    loss = -log softmax(logits)[target] = logsumexp(logits) - logits[target]

With label smoothing e (Szegedy et al. 2016) the target distribution is 1 - e for the target, plus e / V for each of the
V tokens; it keeps logits from growing without bound. Everything is computed in float32 or wider. The loss is a sum,
returned with the number of counted targets; the training step divides once, for the whole batch. Read before:
`lessons/cross_entropy.py`. The derivative is written out in `backprop/cross_entropy.py`.
"""

import torch
from torch import Tensor

from minillm.constants import IGNORE


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sum the nats of all counted targets: logits (..., V), targets (...) long -> sum of nats and number counted.

    Both are scalars. A target of IGNORE is not counted. Raises ValueError for a target outside the vocabulary.

    >>> import math, torch
    >>> total, count = cross_entropy(torch.zeros(3, 4), torch.tensor([2, IGNORE, 0]))
    >>> round(total.item() / count.item(), 3) == round(math.log(4), 3)  # a uniform guess among four tokens
    True
    """
    refuse_strangers(targets, logits.shape[-1])
    logprobs = log_probabilities(logits)  # (..., V)
    nats = -target_logprobs(logprobs, targets)  # (...)
    if smoothing:
        nats = (1 - smoothing) * nats - smoothing * logprobs.mean(-1)
    counted = targets != IGNORE
    return nats.masked_fill(~counted, 0.0).sum(), counted.sum()


def log_probabilities(logits: Tensor) -> Tensor:
    """Turn logits (..., V) into log-probabilities (..., V), in float32 or wider."""
    return torch.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def target_logprobs(logprobs: Tensor, targets: Tensor) -> Tensor:
    """Pick the log-probability of each target: logprobs (..., V), targets (...) -> (...); 0 for IGNORE."""
    counted = targets != IGNORE
    return logprobs.gather(-1, targets.where(counted, 0)[..., None])[..., 0].masked_fill(~counted, 0.0)


def refuse_strangers(targets: Tensor, vocab_size: int) -> None:
    """Raise ValueError for a target outside the vocabulary."""
    wrong = targets[(targets != IGNORE) & ((targets < 0) | (targets >= vocab_size))]
    if len(wrong):
        raise ValueError(
            f"target = {int(wrong[0])}: expected 0 ... {vocab_size - 1}, or IGNORE; use the model's own tokenizer"
        )

"""Backward of cross-entropy: softmax and logarithm together have a very simple derivative (Bridle 1990).

    L = -log softmax(logits)[target]          dlogits = softmax(logits) - onehot(target)

The derivative is the predicted probability minus the target probability. The forward computes log probabilities
directly, so that a confident wrong prediction has a large loss and not log 0. Read before: `softmax`.
"""

from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100) -> tuple[Tensor, tuple]:
    """logits (..., V), targets (...) long, `ignore` for targets without a loss -> sum of nats, kept.

    >>> import torch
    >>> loss, kept = cross_entropy(torch.tensor([[9.0, 1.0]]).log(), torch.tensor([1]))
    >>> round(float(loss), 4), cross_entropy_backward(1.0, kept)
    (2.3026, tensor([[ 0.9000, -0.9000]]))
    """
    counted = targets != ignore
    targets = targets.where(counted, 0)[..., None]  # (..., 1)
    shifted = logits - logits.amax(-1, keepdim=True)
    logprobs = shifted - shifted.exp().sum(-1, keepdim=True).log()  # (..., V)
    nats = -logprobs.gather(-1, targets)[..., 0]
    return nats.masked_fill(~counted, 0.0).sum(), (logprobs, targets, counted)


def cross_entropy_backward(dloss: Tensor | float, kept: tuple) -> Tensor:
    """dloss, a number -> dlogits (..., V)."""
    logprobs, targets, counted = kept
    probabilities = logprobs.exp()
    ones = probabilities.new_ones(()).expand(targets.shape)
    return probabilities.scatter_add(-1, targets, -ones).masked_fill(~counted[..., None], 0.0) * dloss

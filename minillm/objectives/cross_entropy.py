"""Cross-entropy, forward and backward by hand: how surprised the model is by what really came next.

    loss = -log softmax(logits)[target] = logsumexp(logits) - logits[target]
    d loss / d logits = softmax(logits) - onehot(target)

The logsumexp runs over the vocabulary in chunks and rescales what it has when a larger logit turns up (the online softmax,
Milakov and Gimelshein 2018), so nothing of the size of the logits is made in the forward, and one tensor, the gradient, in the
backward. Sums are in float32 at least. Equal to torch's `F.cross_entropy(..., reduction="sum")`, which takes the means of it here.
"""

import torch
from torch import Tensor

from minillm.datasets.batch import IGNORE


def cross_entropy(logits: Tensor, targets: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """logits (..., V), targets (...) long with IGNORE for what is not counted -> (sum of nats, number counted), both scalar.

    `chunk` is how many of the V columns are looked at together. Raises ValueError for a target outside the vocabulary.
    """
    logits, targets = logits.flatten(0, -2), targets.flatten()
    counted = targets != IGNORE
    return _CrossEntropy.apply(logits, targets.where(counted, 0), counted, chunk), counted.sum()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, counted: Tensor, chunk: int) -> Tensor:  # type: ignore[no-untyped-def]
        wide = torch.promote_types(logits.dtype, torch.float32)
        largest = torch.full(targets.shape, -torch.inf, dtype=wide, device=logits.device)  # (N,)
        total = torch.zeros_like(largest)
        for columns in logits.split(chunk, dim=1):
            part = columns.to(wide)
            now = torch.maximum(largest, part.amax(1))
            total = total * (largest - now).exp() + (part - now[:, None]).exp_().sum(1)
            largest = now
        normalizer = largest + total.log()
        right = logits.gather(1, targets[:, None])[:, 0].to(wide)
        ctx.save_for_backward(logits, targets, counted, normalizer)
        ctx.chunk = chunk
        return (normalizer - right).masked_fill(~counted, 0.0).sum()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        logits, targets, counted, normalizer = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        scale = (upstream * counted).to(normalizer.dtype)  # (N,)
        for out, columns in zip(gradient.split(ctx.chunk, dim=1), logits.split(ctx.chunk, dim=1), strict=True):
            out.copy_((columns.to(normalizer.dtype) - normalizer[:, None]).exp_().mul_(scale[:, None]))
        gradient.scatter_add_(1, targets[:, None], -scale[:, None].to(gradient.dtype))
        return gradient, None, None, None

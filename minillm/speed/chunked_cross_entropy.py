"""Chunked cross-entropy: forward and backward by hand; the only new tensor of the logits' size is their gradient.

    d loss / d logits = softmax(logits) - target distribution

The plain function computes log-probabilities; autograd keeps them and creates two more tensors of their size. Here the
logsumexp runs over the vocabulary in chunks and rescales its sum when a larger logit appears (the online softmax,
Milakov and Gimelshein 2018). Each tile of `ROWS` tokens and one chunk of columns stays in a core's cache. The plain
function is `cross_entropy` in `objectives/cross_entropy.py`, the derivative is that of `backprop/cross_entropy.py`.

Gain: in tiles, 2.24 times the speed of all rows at once, forward and backward (`python -m benchmarks.kernels`).
"""

import torch
from torch import Tensor

from minillm.constants import IGNORE
from minillm.objectives.cross_entropy import refuse_strangers

ROWS = 128  # tokens at a time: with a chunk of columns, a tile that stays in a core's cache (see benchmarks/kernels.py)
CHUNK = 4096  # columns of the vocabulary at a time


def chunked_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Compute `cross_entropy(logits, targets, smoothing)`, with `chunk` columns of the vocabulary at a time."""
    logits, targets = logits.flatten(0, -2), targets.flatten()
    refuse_strangers(targets, logits.shape[1])
    return sum_of_nats(logits, targets, smoothing, chunk), (targets != IGNORE).sum()


def sum_of_nats(logits: Tensor, targets: Tensor, smoothing: float = 0.0, chunk: int = CHUNK) -> Tensor:
    """Sum the nats of counted targets: logits (N, V), targets (N,) that are already checked -> scalar."""
    counted = targets != IGNORE
    return _CrossEntropy.apply(logits, targets.where(counted, 0), counted, chunk, smoothing)


def is_one(upstream: Tensor) -> bool:
    """Whether `upstream` is known to be 1. False on a GPU, where reading the value would wait for all queued work."""
    return upstream.device.type == "cpu" and bool(upstream == 1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, counted, chunk, smoothing):  # type: ignore[no-untyped-def]
        tile = _tile(logits, chunk)
        normalizer = torch.cat([_logsumexp(rows, chunk, tile) for rows in logits.split(ROWS)])  # (N,)
        right = logits.gather(1, targets[:, None])[:, 0].to(tile.dtype)
        if smoothing:
            right = (1 - smoothing) * right + smoothing * logits.mean(1, dtype=tile.dtype)
        ctx.save_for_backward(logits, targets, counted, normalizer)
        ctx.chunk, ctx.smoothing = chunk, smoothing
        return (normalizer - right).masked_fill(~counted, 0.0).sum()

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        logits, targets, counted, normalizer = ctx.saved_tensors
        tile, gradient = _tile(logits, ctx.chunk), torch.empty_like(logits)
        # (N, 1): exp(logit - inf) = 0 for targets that are not counted
        shift = normalizer.masked_fill(~counted, torch.inf)[:, None]
        # (N, 1): the share of each token of the vocabulary in label smoothing
        shared = counted[:, None].to(tile.dtype) * (ctx.smoothing / logits.shape[1])
        for out, *of_rows in zip(*(x.split(ROWS) for x in (gradient, logits, shift, shared)), strict=True):
            rows, subtract, part = of_rows
            for place, columns in zip(out.split(ctx.chunk, dim=1), rows.split(ctx.chunk, dim=1), strict=True):
                probs = _on(tile, columns).sub_(subtract).exp_()
                place.copy_(probs.sub_(part) if ctx.smoothing else probs)
        at_target = torch.arange(len(targets), device=targets.device), targets
        gradient[at_target] -= (1 - ctx.smoothing) * counted.to(gradient.dtype)
        if not is_one(upstream):
            gradient.mul_(upstream.to(gradient.dtype))
        return gradient, None, None, None, None


def _tile(logits: Tensor, chunk: int) -> Tensor:
    """Memory for one tile, float32 or wider, shared by all tiles: new memory for each would cost more than the sums."""
    size = min(ROWS, logits.shape[0]), min(chunk, logits.shape[1])
    return logits.new_empty(size, dtype=torch.promote_types(logits.dtype, torch.float32))


def _on(tile: Tensor, part: Tensor) -> Tensor:
    """A copy of a part of the logits, in the memory of the tile."""
    return tile[: part.shape[0], : part.shape[1]].copy_(part)


def _logsumexp(rows: Tensor, chunk: int, tile: Tensor) -> Tensor:
    """Log of the sum of exp over the vocabulary, `chunk` columns at a time: (R, V) -> (R,)."""
    # finite, since logits may be -inf, and -inf - -inf is nan
    largest = tile.new_full(rows.shape[:1], torch.finfo(tile.dtype).min)
    total = torch.zeros_like(largest)
    for columns in rows.split(chunk, dim=1):
        part = _on(tile, columns)
        now = torch.maximum(largest, part.amax(1))
        total = total * (largest - now).exp() + part.sub_(now[:, None]).exp_().sum(1)
        largest = now
    return largest + total.log()

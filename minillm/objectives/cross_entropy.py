"""Cross-entropy, forward and backward by hand: how surprised the model is by what really came next.

    loss = -log softmax(logits)[target] = logsumexp(logits) - logits[target]
    d loss / d logits = softmax(logits) - onehot(target)

With smoothing e (Szegedy et al. 2016) the target is believed with 1 - e and every token with e / V more, so that no logit pays for
running away: that mixture takes the place of the onehot, and of logits[target] its mean.

The logsumexp runs over the vocabulary in chunks and rescales what it has when a larger logit turns up (the online softmax,
Milakov and Gimelshein 2018), so nothing of the size of the logits is made in the forward, and one tensor, the gradient, in the
backward. Sums are in float32 at least. Equal to torch's `F.cross_entropy(..., reduction="sum")`, label_smoothing included.
"""

import torch
from torch import Tensor

from minillm.constants import IGNORE

ROWS = 128  # tokens at a time: with a chunk of columns, a tile that stays in a core's cache (see benchmarks/kernels.py)


def cross_entropy(logits: Tensor, targets: Tensor, chunk: int = 4096, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """logits (..., V), targets (...) long with IGNORE for what is not counted -> (sum of nats, number counted), both scalar.

    `chunk` is how many of the V columns are looked at together. Raises ValueError for a target outside the vocabulary.
    """
    logits, targets = logits.flatten(0, -2), targets.flatten()
    refuse_strangers(targets, logits.shape[1])
    return surprise(logits, targets, chunk, smoothing), (targets != IGNORE).sum()


def refuse_strangers(targets: Tensor, vocab_size: int) -> None:
    """Raise ValueError for a target outside the vocabulary."""
    wrong = targets[(targets != IGNORE) & ((targets < 0) | (targets >= vocab_size))]
    if len(wrong):
        raise ValueError(
            f"target = {int(wrong[0])}: expected 0 ... {vocab_size - 1}, or IGNORE; use the model's own tokenizer"
        )


def surprise(logits: Tensor, targets: Tensor, chunk: int = 4096, smoothing: float = 0.0) -> Tensor:
    """The sum of `cross_entropy` for logits (N, V) and targets (N,) that need no check."""
    counted = targets != IGNORE
    return _CrossEntropy.apply(logits, targets.where(counted, 0), counted, chunk, smoothing)


def is_one(upstream: Tensor) -> bool:
    """Whether a gradient need not be multiplied by it. Asked on the CPU only: to answer, a GPU would have to finish all its work."""
    return upstream.device.type == "cpu" and bool(upstream == 1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, counted: Tensor, chunk: int, smoothing: float) -> Tensor:  # type: ignore[no-untyped-def]
        desk = _desk(logits, chunk)
        normalizer = torch.cat([_logsumexp(rows, chunk, desk) for rows in logits.split(ROWS)])  # (N,)
        right = logits.gather(1, targets[:, None])[:, 0].to(desk.dtype)
        if smoothing:
            right = (1 - smoothing) * right + smoothing * logits.mean(1, dtype=desk.dtype)
        ctx.save_for_backward(logits, targets, counted, normalizer)
        ctx.chunk, ctx.smoothing = chunk, smoothing
        return (normalizer - right).masked_fill(~counted, 0.0).sum()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[no-untyped-def]
        logits, targets, counted, normalizer = ctx.saved_tensors
        desk, gradient = _desk(logits, ctx.chunk), torch.empty_like(logits)
        shift = normalizer.masked_fill(~counted, torch.inf)  # (N,): exp(logit - inf) = 0 where nothing is counted
        shared = counted[:, None].to(desk.dtype) * (
            ctx.smoothing / logits.shape[1]
        )  # (N, 1): every token's part of the belief
        for out, rows, subtract, part in zip(
            *(x.split(ROWS) for x in (gradient, logits, shift[:, None], shared)), strict=True
        ):
            for tile, columns in zip(out.split(ctx.chunk, dim=1), rows.split(ctx.chunk, dim=1), strict=True):
                moved = _on(desk, columns).sub_(subtract).exp_()
                tile.copy_(moved.sub_(part) if ctx.smoothing else moved)
        gradient[torch.arange(len(targets), device=targets.device), targets] -= (1 - ctx.smoothing) * counted.to(
            gradient.dtype
        )
        if not is_one(upstream):
            gradient.mul_(upstream.to(gradient.dtype))
        return gradient, None, None, None, None


def _desk(logits: Tensor, chunk: int) -> Tensor:
    """Room for one tile in float32 at least, used for every tile in turn: fresh memory for each would cost more than the sums."""
    return logits.new_empty(
        min(ROWS, logits.shape[0]), min(chunk, logits.shape[1]), dtype=torch.promote_types(logits.dtype, torch.float32)
    )


def _on(desk: Tensor, tile: Tensor) -> Tensor:
    """A copy of the tile that may be written over."""
    return desk[: tile.shape[0], : tile.shape[1]].copy_(tile)


def _logsumexp(rows: Tensor, chunk: int, desk: Tensor) -> Tensor:
    """log of the sum of exp over the vocabulary, `chunk` columns at a time: (R, V) -> (R,)."""
    # finite, since -inf - -inf is not a number: logits of -inf are legal
    largest = desk.new_full(rows.shape[:1], torch.finfo(desk.dtype).min)
    total = torch.zeros_like(largest)
    for columns in rows.split(chunk, dim=1):
        part = _on(desk, columns)
        now = torch.maximum(largest, part.amax(1))
        total = total * (largest - now).exp() + part.sub_(now[:, None]).exp_().sum(1)
        largest = now
    return largest + total.log()

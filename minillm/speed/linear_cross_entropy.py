"""Linear cross-entropy: head and loss in one function, without storing the logits of the whole batch.

    logits = h W^T        d loss / d h = G W        d loss / d W = G^T h        with G = d loss / d logits, (N, V)

For a large vocabulary, logits and G are by far the largest tensors of a training step. The loss is a sum over tokens.
So the forward goes over slabs of a few rows: for each it computes logits, loss and the contribution to both gradients,
and the backward only scales them. Memory falls from O(N V) to O(rows V + V D). The same idea: Hsu et al. 2024 (Liger
kernels), Wijmans et al. 2024 (cut cross-entropy). Read `chunked_cross_entropy` before, which computes each slab;
`next_token` decides when this is used. The plain version is a model's `head`, then `cross_entropy` in
`objectives/cross_entropy.py`; the derivatives are those of `backprop/cross_entropy.py` and `backprop/linear.py`.

Gain: 0.24 of the memory of torch's head and cross-entropy at a vocabulary of 50,000 (`python -m benchmarks.head`).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.constants import IGNORE
from minillm.models.decoder import Decoder
from minillm.models.rnn import RNN
from minillm.objectives.cross_entropy import refuse_strangers
from minillm.speed.chunked_cross_entropy import is_one, sum_of_nats

SLAB = 2**24  # logits at a time, 32 MB of bfloat16: large enough for efficient matrix products


class FastDecoder(Decoder):
    """Twin of `Decoder` that marks its head as a plain matrix, which `linear_cross_entropy` may replace."""


class FastRNN(RNN):
    """Twin of `RNN` that marks its head as a plain matrix, which `linear_cross_entropy` may replace."""


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0, slab: int = SLAB
) -> tuple[Tensor, Tensor]:
    """Compute `cross_entropy(hidden @ weight.T, targets, smoothing)` for hidden (..., D), weight (V, D), targets (...).

    `slab` is the number of logits at a time, in whole rows, at least one. Raises ValueError as `cross_entropy` does.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    refuse_strangers(targets, weight.shape[0])
    n_rows = max(1, slab // weight.shape[0])
    if not (torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)):
        parts = [sum_of_nats(h @ weight.T, t, smoothing) for h, t in _slabs(n_rows, hidden, targets)]
        return torch.stack(parts).sum(), (targets != IGNORE).sum()
    return _LinearCrossEntropy.apply(hidden, weight, targets, smoothing, n_rows), (targets != IGNORE).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, smoothing, n_rows):  # type: ignore[no-untyped-def]
        d_hidden, total = torch.empty_like(hidden), 0.0
        d_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for h, t, d in _slabs(n_rows, hidden, targets, d_hidden):
            with torch.enable_grad():
                logits = (h @ weight.T).detach().requires_grad_()
                part = sum_of_nats(logits, t, smoothing)
                [gradient] = torch.autograd.grad(part, logits)
            torch.mm(gradient, weight, out=d)
            d_weight += gradient.T @ h
            total = total + part.detach()
        ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        d_hidden, d_weight = ctx.saved_tensors
        if not is_one(upstream):
            d_hidden, d_weight = d_hidden * upstream.to(d_hidden.dtype), d_weight * upstream.to(d_weight.dtype)
        return d_hidden, d_weight, None, None, None


def _slabs(n_rows: int, *tensors: Tensor) -> zip:
    return zip(*(x.split(n_rows) for x in tensors), strict=True)

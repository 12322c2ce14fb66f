"""Joined projections: queries, keys and values by one matrix product instead of three.

One product reads x once and is one call where three are three. While a model writes, the three weights are laid behind each other in
memory, once; each stays a parameter of its own, which optimizers, checkpoints and Muon treat as before. Where gradients are wanted, the
weights are copied behind each other for each forward, which many tokens share.

Gain: with `low_overhead`, 1.3 to 1.6 ms for a greedy token of 0.8 million parameters that took 2.2 (benchmarks/NOTES.md); in training,
with one flat gradient, a tenth of a step of 8 tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.layers.attention import Attention, _split


class JoinedAttention(Attention):
    """`Attention` whose to_q, to_k and to_v are exactly nn.Linear."""

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H, G = self.n_heads, self.n_kv_heads
        layers = self.to_q, self.to_k, self.to_v
        biases = [layer.bias for layer in layers if layer.bias is not None]
        weight = self._join("weight", [layer.weight for layer in layers])
        bias = self._join("bias", biases) if len(biases) == len(layers) else None
        if weight is None or (bias is None) != (not biases):
            return super()._project(x)
        return _split(F.linear(x, weight, bias), H + 2 * G).split_with_sizes((H, G, G), dim=1)

    def _join(self, name: str, parts: Sequence[Tensor]) -> Tensor | None:
        """The parameters of that name as one; None where they cannot be laid behind each other."""
        if torch.is_grad_enabled():
            return torch.cat(parts)
        held = vars(self)  # subtle: not by `nn.Module.__setattr__`, which takes as long as the product
        joined = held.get(f"joined_{name}")
        if joined is None or not joined.holds(parts):
            joined = held[f"joined_{name}"] = SideBySide(parts)
        return joined.whole


class SideBySide:
    """Parameters that lie behind each other in memory, and the same memory as one tensor."""

    def __init__(self, parts: Sequence[Tensor]):
        """Lays them so where they do not lie so yet; `whole` is None where one is a part of a larger tensor, which it must remain."""
        self.whole, sizes = _as_one(parts), [len(part) for part in parts]
        if self.whole is None and all(part.untyped_storage().nbytes() == part.nbytes for part in parts):
            with torch.inference_mode(False):  # subtle: training goes on with these weights
                self.whole = torch.cat([part.data for part in parts])
            for part, piece in zip(parts, self.whole.split(sizes), strict=True):
                part.data = piece
        # subtle: of the pieces and not of the parts, two of which may be one parameter, which lies in one place only
        self.addresses = [] if self.whole is None else [piece.data_ptr() for piece in self.whole.split(sizes)]

    def holds(self, parts: Sequence[Tensor]) -> bool:
        """Whether they are still where they were: not moved, cast or replaced. What they hold may have changed."""
        return self.addresses == [part.data_ptr() for part in parts] and all(part.is_contiguous() for part in parts)


def _as_one(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors that lie behind each other in one piece of memory, as one tensor; None for others."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and part.dtype == first.dtype
        if not (same and part.is_contiguous() and part.storage_offset() == end):
            return None
        end += part.numel()
    n_rows = sum(len(part) for part in parts)
    return first.data.as_strided((n_rows, *first.shape[1:]), first.stride(), first.storage_offset())

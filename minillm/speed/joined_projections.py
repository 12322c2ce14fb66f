"""Joined projections: queries, keys and values by one matrix product instead of three.

One product reads x once and is one call where three are three. While a model writes, the three weights are laid behind
each other in memory, once; each stays a parameter of its own, which optimizers, checkpoints and Muon treat as before.
Where gradients are wanted, the weights are copied behind each other for each forward, which many tokens share.

Gain: with `low_overhead`, 1.3 to 1.6 ms for a greedy token of 0.8 million parameters that took 2.2
(benchmarks/NOTES.md); in training, with one flat gradient, a tenth of a step of 8 tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.layers.attention import Attention, _split


class JoinedAttention(Attention):
    """`Attention` whose to_q, to_k and to_v are exactly nn.Linear."""

    joined: "SideBySide | None" = None

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        H, G = self.n_heads, self.n_kv_heads
        if torch.is_grad_enabled():
            weight, bias = (torch.cat(parts) if parts else None for parts in self._weights_and_biases())
        else:
            if self.joined is None or not self.joined.holds():
                self.joined = SideBySide(*self._weights_and_biases())
            weight, bias = self.joined.weight, self.joined.bias
        if weight is None:
            return super()._project(x)
        return _split(F.linear(x, weight, bias), H + 2 * G).split_with_sizes((H, G, G), dim=1)

    def _weights_and_biases(self) -> tuple[list[Tensor], list[Tensor]]:
        """Three weights, and three biases or none; nothing where only some of the layers have a bias."""
        layers = self.to_q, self.to_k, self.to_v
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return ([layer.weight for layer in layers], biases) if len(biases) in (0, len(layers)) else ([], [])


class SideBySide:
    """Weights and biases that lie behind each other in memory, and the same memory as one weight and one bias."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]):
        """Lay them so where they do not lie so yet. Both are None where that cannot be done."""
        self.parts = [*weights, *biases]
        self.weight, of_weights = _laid(weights)
        self.bias, of_biases = _laid(biases)
        if self.bias is None and biases:
            self.weight = None
        self.addresses = [*of_weights, *of_biases]

    def holds(self) -> bool:
        """Whether all are where they were: not moved, cast or turned. What they hold may have changed."""
        return self.addresses == [part.data_ptr() for part in self.parts] and all(map(Tensor.is_contiguous, self.parts))


def _laid(parts: list[Tensor]) -> tuple[Tensor | None, list[int]]:
    """Parameters as one tensor, and the address of each; None where one of them is a part of a larger tensor."""
    whole, sizes = _as_one(parts), [len(part) for part in parts]
    if whole is None and parts and all(part.untyped_storage().nbytes() == part.nbytes for part in parts):
        with torch.inference_mode(False):  # subtle: training goes on with these weights
            whole = torch.cat([part.data for part in parts])
        for part, piece in zip(parts, whole.split(sizes), strict=True):
            part.data = piece
    # subtle: of the pieces and not of the parts, two of which may be one parameter, which lies in one place only
    return whole, [] if whole is None else [piece.data_ptr() for piece in whole.split(sizes)]


def _as_one(parts: list[Tensor]) -> Tensor | None:
    """Tensors that lie behind each other in one piece of memory, as one tensor; None for others."""
    if not parts:
        return None
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and part.dtype == first.dtype
        if not (same and part.is_contiguous() and part.storage_offset() == end):
            return None
        end += part.numel()
    n_rows = sum(len(part) for part in parts)
    return first.data.as_strided((n_rows, *first.shape[1:]), first.stride(), first.storage_offset())

"""Joined projections: queries, keys and values by one matrix product instead of three.

One product reads x once and needs one call instead of three. For inference the three weights are moved once, so that
they are contiguous in memory; each remains a separate parameter for optimizers and checkpoints. If gradients are
needed, the weights are concatenated in each forward, at a cost that all tokens of the batch share.

Gain: 1.16 times the speed of attention over 8 tokens in training (`python -m benchmarks.kernels`); in decoding, see
`low_overhead`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.layers.attention import Attention, _split


class JoinedAttention(Attention):
    """Twin of `Attention`, if to_q, to_k and to_v are exactly nn.Linear."""

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
        """Three weights, and three biases or none; two empty lists if only some of the layers have a bias."""
        layers = self.to_q, self.to_k, self.to_v
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return ([layer.weight for layer in layers], biases) if len(biases) in (0, len(layers)) else ([], [])


class SideBySide:
    """Weights and biases that are contiguous in memory; `weight` and `bias` are the same memory as one tensor each."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]):
        """Moves the tensors if they are not contiguous yet. `weight` is None if that is not possible."""
        self.parts = [*weights, *biases]
        self.weight, of_weights = _laid(weights)
        self.bias, of_biases = _laid(biases)
        if self.bias is None and biases:
            self.weight = None
        self.addresses = [*of_weights, *of_biases]

    def holds(self) -> bool:
        """Whether no tensor was moved, cast or transposed since; their values may have changed."""
        return self.addresses == [part.data_ptr() for part in self.parts] and all(map(Tensor.is_contiguous, self.parts))


def _laid(parts: list[Tensor]) -> tuple[Tensor | None, list[int]]:
    """Parameters as one tensor, and the address of each; None if one of them is a part of a larger tensor."""
    whole, sizes = _as_one(parts), [len(part) for part in parts]
    if whole is None and parts and all(part.untyped_storage().nbytes() == part.nbytes for part in parts):
        with torch.inference_mode(False):  # subtle: these weights may be trained later
            whole = torch.cat([part.data for part in parts])
        for part, piece in zip(parts, whole.split(sizes), strict=True):
            part.data = piece
    # subtle: addresses of the pieces, not of the parts: two parts may be one parameter, which has only one address
    return whole, [] if whole is None else [piece.data_ptr() for piece in whole.split(sizes)]


def _as_one(parts: list[Tensor]) -> Tensor | None:
    """Tensors that are contiguous in one storage, as one tensor; None for others."""
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

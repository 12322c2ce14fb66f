"""Quantized KV cache: keys and values in 8 or 4 bits; no token is forgotten, all are rounded (KIVI, Liu et al. 2024).

    scale = (max - min) / (2^bits - 1)      code = round((x - min) / scale)      |x - (code scale + min)| <= scale / 2

Some channels of keys are large for every token, so keys share a scale along the tokens: one for each channel in a group
of `group` tokens. Values have no such channels, so each token of a head has its own scale. A group is quantized when it
is full, and the last tokens matter most: at least `residual` of them stay unrounded. Codes of four bits are packed two
to a byte. A read attends to itself unrounded. One layer is dequantized at a time. Read before: `slots`.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from minillm.cache.kv_cache import KVView, Positions, Rotate
from minillm.cache.nibbles import pack_nibbles, unpack_nibbles
from minillm.cache.slots import Slots
from minillm.constants import EMPTY


class Quantized(NamedTuple):
    """Numbers in few bits: x ~ codes scale + zero."""

    codes: Tensor  # uint8; codes of 4 bits two to a byte
    scale: Tensor  # float32 at least; 1 long in the dimension that shares it
    zero: Tensor

    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(part.nbytes for part in self)


def quantize(x: Tensor, dim: int, bits: int) -> Quantized:
    """Round x to `bits` bits (8 or 4), with one scale and zero point along `dim`. 4 bits need an even last dimension.

    >>> x = quantize(torch.tensor([[0.0, 1.0, 2.0, 15.0]]), dim=1, bits=4)
    >>> dequantize(x, bits=4).tolist(), x.codes.tolist()
    ([[0.0, 1.0, 2.0, 15.0]], [[16, 242]])
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    low, high = x.aminmax(dim=dim, keepdim=True)
    scale = (high - low) / (2**bits - 1)
    divisor = scale.masked_fill(scale == 0, 1.0)  # equal numbers have scale 0 and code 0
    codes = ((x - low) / divisor).round().clamp(0, 2**bits - 1).to(torch.uint8)
    return Quantized(pack_nibbles(codes) if bits == 4 else codes, scale, low)


def dequantize(x: Quantized, bits: int) -> Tensor:
    """The numbers back from their codes, each off by at most half of its scale."""
    codes = unpack_nibbles(x.codes) if bits == 4 else x.codes
    return codes * x.scale + x.zero


def _join(a: Quantized, b: Quantized) -> Quantized:
    """The groups of a, then those of b."""
    return Quantized(*(torch.cat(parts, dim=3) for parts in zip(a, b, strict=True)))


class QuantizedCache:
    """One layer's rotated keys and values: full groups quantized, the last tokens unrounded."""

    span = None
    exact = False
    truncates = True

    def __init__(self, bits: int, group: int = 32, residual: int = 32):
        """`bits`: 8 or 4. `group`: tokens whose keys share scales, even. `residual`: last tokens, never rounded."""
        assert bits in (8, 4) and group % 2 == 0, "8 or 4 bits, and pairs of tokens"
        self.bits, self.group, self.residual = bits, group, residual
        self.slots = Slots()  # unrounded tokens
        self.k: Quantized  # codes (B, G, K, N, group) of N groups, two tokens in a byte; scales (B, G, K, N, 1)
        self.v: Quantized  # the same, with scales (B, G, 1, N, group)
        # (B,) number of groups in each row; groups beyond it are EMPTY
        self.n_groups = torch.zeros(0, dtype=torch.long)
        self.even = True  # every row has all N groups

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        """See `KVCache.extend`."""
        if len(self.n_groups) != len(k):
            self.n_groups = positions.ids.new_zeros(len(k))
            self.k, self.v = self._quantize(k[:, :, :0], v[:, :, :0])
        dense = self.slots.append(rotate(k, positions.ids), v, positions)
        view = self._show(dense)
        while self.slots.positions.shape[2] >= self.residual + self.group:
            self._close_groups()
        return view

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `KVCache.reorder`."""
        self.slots.reorder(rows)
        if len(self.n_groups):
            self.k, self.v = (Quantized(*(part.index_select(0, rows) for part in x)) for x in (self.k, self.v))
            self._count_groups(self.n_groups[rows])

    def truncate(self, lengths: Tensor) -> None:
        """See `KVCache.truncate`. Possible to 0 or within the unrounded tokens, because a group shares its scales."""
        if not len(self.n_groups):
            return
        rounded = self.group * self.n_groups
        if bool(((lengths > 0) & (lengths < rounded)).any()):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected at least the rounded tokens, {rounded.tolist()}, or 0, since "
                "tokens of a group share their scales; take fewer back, or use another cache"
            )
        self.slots.drop((self.slots.positions < 0) | (self.slots.positions >= lengths[:, None, None]))
        self._count_groups(self.n_groups.masked_fill(lengths == 0, 0))

    def nbytes(self) -> int:
        """See `KVCache.nbytes`. Includes scales and zero points."""
        rounded = self.k.nbytes() + self.v.nbytes() if len(self.n_groups) else 0
        return rounded + self.slots.nbytes() + self.n_groups.nbytes

    def _show(self, dense: bool) -> KVView:
        """The view of all tokens, rounded or not; `dense`: the unrounded slots are dense."""
        slots, n_rounded = self.slots, self.group * self.k.codes.shape[3]
        k, v = (
            rearrange(dequantize(x, self.bits), "B G K N S -> B G (N S) K").to(slots.k.dtype) for x in (self.k, self.v)
        )
        places = torch.arange(n_rounded, device=slots.k.device)
        places = places.where(places < self.group * self.n_groups[:, None], EMPTY)[:, None]  # (B, 1, N group)
        positions = torch.cat([places.expand(-1, slots.positions.shape[1], -1), slots.positions], dim=2)
        return KVView(torch.cat([k, slots.k], dim=2), torch.cat([v, slots.v], dim=2), positions, self.even and dense)

    def _close_groups(self) -> None:
        """Quantize the oldest `group` slots of each row with at least `residual` + `group` of them."""
        slots, oldest = self.slots, slice(0, self.group)
        ready = slots.positions[:, 0, self.residual + self.group - 1] >= 0  # (B,)
        rounded = self._quantize(slots.k[:, :, oldest], slots.v[:, :, oldest])
        for n in sorted(set(self.n_groups[ready].tolist())):  # a single number, unless the batch is ragged
            rows = ready & (self.n_groups == n)
            if n == self.k.codes.shape[3]:
                self.k, self.v = _join(self.k, rounded[0]), _join(self.v, rounded[1])
            for part, new in zip((*self.k, *self.v), (*rounded[0], *rounded[1]), strict=True):
                part[rows, :, :, n] = new[rows, :, :, 0]
        self._count_groups(self.n_groups + ready)
        first = torch.arange(slots.positions.shape[2], device=ready.device) < self.group
        slots.drop((slots.positions < 0) | (ready[:, None, None] & first))

    def _quantize(self, k: Tensor, v: Tensor) -> tuple[Quantized, Quantized]:
        """k, v (B, G, N group, K): keys with a scale for each channel of a group, values with one for each token."""
        k, v = (rearrange(x, "B G (N S) K -> B G K N S", S=self.group) for x in (k, v))
        return quantize(k, 4, self.bits), quantize(v, 2, self.bits)

    def _count_groups(self, n_groups: Tensor) -> None:
        """Set the number of groups in each row, (B,), and free the groups that no row uses."""
        self.n_groups, n = n_groups, int(n_groups.max()) if len(n_groups) else 0
        if n < self.k.codes.shape[3]:  # subtle: a slice alone would hold the memory of all groups
            self.k, self.v = (Quantized(*(part[:, :, :, :n].clone() for part in x)) for x in (self.k, self.v))
        self.even = bool((n_groups == n).all())

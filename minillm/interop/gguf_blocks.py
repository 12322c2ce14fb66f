"""Block formats of ggml: weights in few bits, a block of 32 or 256 neighbors sharing scales (llama.cpp, 2023).

Each row of a matrix is cut into blocks, and a block holds its scales in float16 (d, and m or d_min) and one small
number q for each weight:

    name  bits per weight   block                                                     weight
    Q8_0  8.5               32:  d, 32 bytes q = -128 ... 127                         d q
    Q5_0  5.5               32:  d, 32 fifth bits, 16 bytes of two nibbles            d (q - 16)
    Q4_0  4.5               32:  d, 16 bytes                                          d (q - 8)
    Q4_1  5                 32:  d, m, 16 bytes                                       d q + m
    Q4_K  4.5               256: d, d_min, 12 bytes, 128 bytes; 8 groups of 32        (d s) q - d_min t
    Q6_K  6.5625            256: 128 bytes, 64 bytes, 16 int8 s, d; 16 groups of 16   (d s) (q - 32)

K formats quantize scales too: s and t of a group have 6 bits (8 in Q6_K). Every product above is exact in float32, so
the order of multiplication does not matter, and a sum is rounded once. Formats with four bits are the groups of our
`quantization/int4.py`, so `int4` takes their levels as they are. Read before: `cache/nibbles.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.cache.nibbles import pack_nibbles
from minillm.quantization.int4 import Int4


class Blocks(NamedTuple):
    """A block format: weights in a block, its bytes, and the function that restores them."""

    n_weights: int
    n_bytes: int
    dequantize: Callable[[Tensor], Tensor]  # (N, n_bytes) uint8 -> (N, n_weights) float32


def _numbers(blocks: Tensor, begin: int, end: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Bytes begin ... end - 1 of each block as numbers of `dtype`: (N, bytes / width) float32."""
    return blocks[:, begin:end].view(dtype).float()


def _halves(packed: Tensor) -> Tensor:
    """Nibbles of bytes, first all lower ones, then all upper ones: (..., n) -> (..., 2 n).

    ggml pairs weights that are half a block apart, because one vector instruction then takes half a block.
    """
    return torch.cat([packed & 15, packed >> 4], dim=-1)


class Groups(NamedTuple):
    """Groups of 32 weights in four bits each: weight = scale q + minimum."""

    q: Tensor  # (N, n, 32) uint8, 0 ... 15
    scales: Tensor  # (N, n) float32
    minimums: Tensor  # (N, n) float32

    def dequantize(self) -> Tensor:
        """The weights, (N, 32 n) float32."""
        return (self.q.float() * self.scales[..., None] + self.minimums[..., None]).flatten(1)


def _q4_0(blocks: Tensor) -> Groups:
    d = _numbers(blocks, 0, 2)
    return Groups(_halves(blocks[:, None, 2:]), d, -8 * d)


def _q4_1(blocks: Tensor) -> Groups:
    return Groups(_halves(blocks[:, None, 4:]), _numbers(blocks, 0, 2), _numbers(blocks, 2, 4))


def _q4_k(blocks: Tensor) -> Groups:
    """Twelve bytes hold s and t of eight groups: the lower six bits of bytes 0-3 and 4-7 those of groups 0-3.

    For groups 4-7, bytes 8-11 hold the lower four bits of both, and bytes 0-7 the two upper bits, at their top.
    """
    low_s, low_t, high = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)  # (N, 4) each
    s = torch.cat([low_s & 63, high & 15 | low_s >> 6 << 4], dim=1)
    t = torch.cat([low_t & 63, high >> 4 | low_t >> 6 << 4], dim=1)
    q = _halves(blocks[:, 16:].unflatten(1, (4, 32))).flatten(1).unflatten(1, (8, 32))
    return Groups(q, _numbers(blocks, 0, 2) * s.float(), -_numbers(blocks, 2, 4) * t.float())


def _q5_0(blocks: Tensor) -> Tensor:
    fifth = blocks[:, 2:6, None] >> torch.arange(8, dtype=torch.uint8) & 1  # (N, 4, 8): bit i is of weight i
    q = _halves(blocks[:, 6:]) | fifth.flatten(1) << 4
    return _numbers(blocks, 0, 2) * (q.float() - 16)


def _q8_0(blocks: Tensor) -> Tensor:
    return _numbers(blocks, 0, 2) * _numbers(blocks, 2, 34, torch.int8)


def _q6_k(blocks: Tensor) -> Tensor:
    """Each half of a block has 64 bytes with the lower four bits of its 128 weights, 32 bytes with the upper two."""
    lower = _halves(blocks[:, :128].unflatten(1, (2, 64)))  # (N, 2, 128)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    upper = blocks[:, 128:192].unflatten(1, (2, 1, 32)) >> shifts & 3  # (N, 2, 4, 32): lowest bits of all bytes first
    q = (lower | upper.flatten(2) << 4).float() - 32
    scales = _numbers(blocks, 208, 210) * _numbers(blocks, 192, 208, torch.int8)  # (N, 16)
    return (scales[..., None] * q.flatten(1).unflatten(1, (16, 16))).flatten(1)


FOUR_BITS = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
BLOCKS = {
    "Q8_0": Blocks(32, 34, _q8_0),
    "Q5_0": Blocks(32, 22, _q5_0),
    "Q4_0": Blocks(32, 18, lambda blocks: _q4_0(blocks).dequantize()),
    "Q4_1": Blocks(32, 20, lambda blocks: _q4_1(blocks).dequantize()),
    "Q4_K": Blocks(256, 144, lambda blocks: _q4_k(blocks).dequantize()),
    "Q6_K": Blocks(256, 210, _q6_k),
}


def int4(kind: str, blocks: Tensor, n_rows: int) -> Int4:
    """The same weights as packed int4 in groups of 32, from the blocks (N, bytes) of a format in FOUR_BITS.

    Levels are not rounded again: Int4's w = offset + scale (q - 8) with offset = minimum + 8 scale. float32 holds the
    offset exactly in Q4_0, and in Q4_1 unless d and m differ in size by more than 2^12 or so, and then the dequantized
    weights are equal. Elsewhere the offset is rounded to float32, as the weight is after it.
    """
    groups = FOUR_BITS[kind](blocks)
    offsets = (groups.minimums.double() + 8 * groups.scales.double()).float()
    scales, offsets = (x.reshape(n_rows, -1) for x in (groups.scales, offsets))
    return Int4(pack_nibbles(groups.q.reshape(n_rows, -1)), scales, offsets)

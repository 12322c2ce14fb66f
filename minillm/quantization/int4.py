"""int4 weights: 4 bits each, two in a byte, with a scale and an offset for each group of inputs; a quarter of bfloat16.

    scale = (max - min) / 15 of a group      w' = offset + scale (q - 8),  q = 0 ... 15      |w - w'| <= scale / 2

Sixteen levels are few, so they cover the range of 32 to 128 neighboring weights instead of a whole row (Dettmers and
Zettlemoyer 2023, "The case for 4-bit precision"). Groups of 64 with 16 bits for each scale and offset cost 4.5 bits per
weight. The offset is the weight at level 8, not a level that stands for 0, so nothing is clipped. Weights that another
project rounded have finer scales and offsets, which float32 holds exactly: then groups of 32 cost 6 bits per weight.
Read before: `int8`.
"""

from typing import NamedTuple

from torch import Tensor

from minillm.cache.nibbles import pack_nibbles, unpack_nibbles
from minillm.quantization.packed import check_groups, steps


class Int4(NamedTuple):
    """A matrix (out, in) in groups of neighboring inputs, n groups in a row."""

    values: Tensor  # (out, in / 2) uint8: two levels per byte
    scales: Tensor  # (out, n) bfloat16 or float32
    offsets: Tensor  # (out, n) bfloat16 or float32

    def dequantize(self) -> Tensor:
        """See `Packed.dequantize`."""
        levels = unpack_nibbles(self.values).float().unflatten(-1, (self.scales.shape[-1], -1)) - 8  # (out, n, group)
        return (self.offsets.float()[..., None] + self.scales.float()[..., None] * levels).flatten(-2)

    def rows(self, ids: Tensor) -> Tensor:
        """See `Packed.rows`."""
        return Int4(*(x[ids] for x in self)).dequantize()


def quantize(weight: Tensor, group: int = 64) -> Int4:
    """Round weight (out, in) to the nearest levels; a group of zeros stays zero.

    Raises ValueError if `group` does not divide `in`.
    """
    check_groups(weight, group)
    groups = weight.detach().double().unflatten(1, (-1, group))  # (out, n, group)
    low, high = groups.amin(-1), groups.amax(-1)
    offsets = (low + (high - low) * 8 / 15).bfloat16()
    # subtle: rounding the offset moves the levels; the scale must still cover the least and the greatest weight
    below, above = (offsets - low) / 8.4, (high - offsets) / 7.4
    scales = steps(((high - low) / 15).maximum(below).maximum(above))
    levels = ((groups - offsets[..., None]) / scales.double()[..., None] + 8).round().clamp(0, 15)
    return Int4(pack_nibbles(levels.flatten(1)), scales, offsets)

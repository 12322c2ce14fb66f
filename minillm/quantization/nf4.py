"""NF4, 4-bit NormalFloat: sixteen levels at the quantiles of a normal distribution (Dettmers et al. 2023, QLoRA).

    level_i = quantile of the normal distribution / the greatest one        w' = absmax of the block * level

Trained weights are nearly normal, so equal steps waste levels on the tails, and quantiles use all levels equally often.
Seven levels are negative, eight positive, one is exactly 0. A block of 64 inputs shares one absmax. Double quantization
stores these in 8 bits too, 256 of them sharing a mean and a scale: 4.13 bits per weight. Torch has no kernel for such
levels, so they save memory but no time. Read before: `int4`.
"""

from statistics import NormalDist
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.cache.nibbles import pack_nibbles, unpack_nibbles
from minillm.quantization.packed import check_groups, steps

N_SHARING = 256  # number of absmaxes with a common mean and scale


def levels() -> Tensor:
    """The sixteen levels, ascending from -1 to 1, float64.

    subtle: the outermost probability is the mean of 1 - 1/30 and 1 - 1/32, the midpoints of the last of 15 and of the
    last of 16 equal shares. From there the probabilities of both sides go in equal steps to 1/2, whose quantile is
    level 0: seven steps on the negative side, eight on the positive side.

    >>> [round(level, 2) for level in levels().tolist()]
    [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]
    """
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    positive, negative = (
        [NormalDist().inv_cdf(outermost + (0.5 - outermost) * i / n) for i in range(n)] for n in (8, 7)
    )
    return torch.tensor([*(-x for x in negative), 0.0, *reversed(positive)], dtype=torch.float64) / positive[0]


class NF4(NamedTuple):
    """A matrix (out, in) in blocks of neighboring inputs, n blocks in a row; `out * n` absmaxes, padded to M * 256."""

    values: Tensor  # (out, in / 2) uint8: two levels per byte
    absmax: Tensor  # (M, 256) int8
    means: Tensor  # (M,) bfloat16: means of the absmaxes
    scales: Tensor  # (M,) bfloat16: scales of their differences from the mean
    block: Tensor  # () long: inputs that share an absmax

    def dequantize(self) -> Tensor:
        """See `Packed.dequantize`."""
        return _look_up(self.values, self._absmax())

    def rows(self, ids: Tensor) -> Tensor:
        """See `Packed.rows`."""
        return _look_up(self.values[ids], self._absmax()[ids])

    def _absmax(self) -> Tensor:
        """The absmax of each block, (out, n) float32."""
        absmax = _absmax(self.absmax, self.means, self.scales)
        n_blocks = 2 * self.values.shape[1] // int(self.block)
        return absmax.flatten()[: len(self.values) * n_blocks].unflatten(0, (-1, n_blocks))


def quantize(weight: Tensor, block: int = 64) -> NF4:
    """Round weight (out, in) to the nearest levels; a block of zeros stays zero.

    Raises ValueError if `block` does not divide `in`.
    """
    check_groups(weight, block)
    blocks = weight.detach().double().unflatten(1, (-1, block))  # (out, n, block)
    absmax = blocks.abs().amax(-1)
    rows = F.pad(absmax.flatten(), (0, -absmax.numel() % N_SHARING), value=float(absmax[-1, -1])).view(-1, N_SHARING)
    means = rows.mean(1).bfloat16()
    scales = steps((rows - means[:, None]).abs().amax(1) / 127)
    packed = ((rows - means[:, None]) / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8)
    rounded = _absmax(packed, means, scales).flatten()[: absmax.numel()].view_as(absmax)
    unit = blocks / torch.where(rounded > 0, rounded, 1.0)[..., None]
    middles = (levels()[1:] + levels()[:-1]) / 2
    nearest = torch.bucketize(unit.contiguous(), middles.to(unit.device))
    nearest = torch.where((absmax > 0)[..., None], nearest, 7)
    return NF4(pack_nibbles(nearest.flatten(1)), packed, means, scales, torch.tensor(block, device=weight.device))


def _absmax(packed: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """Dequantize 8-bit absmaxes: (M, 256) float32, never negative."""
    return (means.float()[:, None] + scales.float()[:, None] * packed.float()).clamp(min=0)


def _look_up(values: Tensor, absmax: Tensor) -> Tensor:
    """Bytes (..., in / 2) and absmaxes (..., n) -> weights (..., in) float32."""
    found = levels().float().to(values.device)[unpack_nibbles(values).long()]
    return (found.unflatten(-1, (absmax.shape[-1], -1)) * absmax[..., None]).flatten(-2)

"""int8 weights: 8 bits each, with one scale for each output; half of bfloat16, with little loss (Jacob et al. 2018).

    scale = max |w| / 127 of a row      q = round(w / scale), -127 ... 127      w' = scale q      |w - w'| <= scale / 2

Each row has its own scale, because one outlier would coarsen a scale for the whole matrix (Dettmers et al. 2022,
LLM.int8()). The scale is outside the sum over inputs, so a kernel adds up integers and scales once. Read before:
`packed`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minillm.quantization.packed import steps


class Int8(NamedTuple):
    """A matrix (out, in) as signed bytes."""

    values: Tensor  # (out, in) int8
    scales: Tensor  # (out,) bfloat16

    def dequantize(self) -> Tensor:
        """See `Packed.dequantize`."""
        return self.values.float() * self.scales.float()[:, None]

    def rows(self, ids: Tensor) -> Tensor:
        """See `Packed.rows`."""
        return self.values[ids].float() * self.scales[ids].float()[..., None]


def quantize(weight: Tensor) -> Int8:
    """Round weight (out, in) to the nearest values; a row of zeros stays zero.

    >>> packed = quantize(torch.tensor([[12.7, -6.4, 0.02]]))
    >>> packed.values.tolist()
    [[127, -64, 0]]
    """
    wide = weight.detach().double()
    scales = steps(wide.abs().amax(1) / 127)
    return Int8((wide / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8), scales)

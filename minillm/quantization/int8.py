"""Eight bits a weight, one scale an output: half of bfloat16, and hardly a loss.

    scale = max |w| / 127 of a row        q = round(w / scale), -127 ... 127        w' = scale q        |w - w'| <= scale / 2

A row has a scale of its own, since one outlier in a matrix would coarsen all of it (Jacob et al. 2018; Dettmers et al. 2022,
LLM.int8()). The scale is outside of the sum over inputs, so a kernel may add up integers or rounded numbers and scale once.
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
    """The nearest values, weight (out, in). A row of zeros stays zero."""
    wide = weight.detach().double()
    scales = steps(wide.abs().amax(1) / 127)
    return Int8((wide / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8), scales)

"""BitFit: only the biases are trained (Ben Zaken et al. 2021).

    y = W x + b + shift        shift: one trained number for each output, at first 0

A bias moves every token's vector by the same amount. That is enough to bring out much of what a model knows already,
with less than 0.1 % of its parameters. A layer without a bias gets one, which starts at 0; there the shift can be
trained and used but not merged, since the model has no place for it. Read before: `inject`.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.inject import MATRICES, Adapted, inject, matching, wrapped
from minillm.config.fields import validate
from minillm.layers.moe import StackedLinear, rows_by_expert
from minillm.layers.norm import LayerNorm


@dataclass(frozen=True)
class BitFitConfig(Adapter):
    """A BitFit adapter."""

    kind: Literal["bitfit"] = "bitfit"  # kind of adapter
    targets: tuple[str, ...] = ("to_*", "up", "down")  # linear layers and LayerNorms, by the end of their path

    def __post_init__(self) -> None:
        validate(self)
        if not self.targets:
            raise ValueError("adapter.targets = []: expected names of layers, such as to_*,up,down; name some")

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`."""
        inject(model, wrapped(matching(model, self.targets, (*MATRICES, LayerNorm)), shifted))
        return model


def shifted(layer: nn.Module) -> Adapted:
    """A layer, or the stacked layers of experts, with a trained bias."""
    return StackedShifted(layer) if isinstance(layer, StackedLinear) else Shifted(layer)


class Shifted(Adapted):
    """A frozen layer with a trained bias: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Module):
        """base: a linear layer or a LayerNorm."""
        super().__init__(base)
        self.shift = nn.Parameter(base.weight.new_zeros(len(base.weight)))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.shift

    def merged(self) -> nn.Module:
        """See `Adapted.merged`."""
        return _with_bias(self.base, self.shift)


class StackedShifted(Adapted):
    """The frozen layers of E experts with a trained bias each: rows of x (M, in), sorted by expert -> (M, out)."""

    def __init__(self, base: StackedLinear):
        super().__init__(base)
        n_experts, d_out, _ = base.weight.shape
        # subtle: one dimension, since optimizers tell vectors from matrices by it
        self.shift = nn.Parameter(base.weight.new_zeros(n_experts * d_out))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.base(x, sizes) + rows_by_expert(self.shift, sizes, len(x))

    def merged(self) -> nn.Module:
        """See `Adapted.merged`."""
        return _with_bias(self.base, self.shift)


@torch.no_grad()
def _with_bias(base: nn.Module, shift: Tensor) -> nn.Module:
    names = dict(base.named_parameters(recurse=False))
    if "bias" not in names:
        raise ValueError(
            f"a {type(base).__name__} without a bias: expected one to add the trained bias to; use the adapter beside "
            "its base, or take a model with biases (model.bias = true)"
        )
    layer = copy.deepcopy(base)
    layer.bias.add_(shift)
    return layer

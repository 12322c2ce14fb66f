"""(IA)3: a trained factor for every key, every value, and every hidden unit of the feed-forward (Liu et al. 2022).

    softmax(q (l_k * k)^T / sqrt(K)) (l_v * v)        down(l_ff * f(up(x)))        l: 1 at first

"Infused Adapter by Inhibiting and Amplifying Inner Activations": it can only strengthen or weaken what the model
computes already, with some hundred numbers a block. A factor of an output scales a row of the weight, and one of an
input a column, so merging is exact. Read before: `inject`.
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


@dataclass(frozen=True)
class IA3Config(Adapter):
    """An (IA)3 adapter."""

    kind: Literal["ia3"] = "ia3"  # kind of adapter
    outputs: tuple[str, ...] = ("to_k", "to_v")  # layers whose outputs are scaled, by the end of their path
    inputs: tuple[str, ...] = ("down",)  # layers whose inputs are scaled

    def __post_init__(self) -> None:
        validate(self)
        if not (self.outputs or self.inputs):
            raise ValueError("adapter.outputs = []: expected names of layers here or in adapter.inputs; name some")

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`."""
        outputs = matching(model, self.outputs) if self.outputs else {}
        inputs = matching(model, self.inputs, MATRICES) if self.inputs else {}
        both = outputs.keys() & inputs.keys()
        if both:
            raise ValueError(
                f"adapter.inputs: expected other layers than adapter.outputs, found {min(both)} in both; leave it out "
                "of one"
            )
        inject(model, wrapped(outputs, ScaledOutput) | wrapped(inputs, scaled_input))
        return model


def scaled_input(layer: nn.Module) -> Adapted:
    """A layer, or the stacked layers of experts, with scaled inputs."""
    return StackedScaledInput(layer) if isinstance(layer, StackedLinear) else ScaledInput(layer)


class ScaledOutput(Adapted):
    """A frozen linear layer with trained factors of its outputs: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear):
        super().__init__(base)
        self.factors = nn.Parameter(base.weight.new_ones(base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * self.factors

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """See `Adapted.merged`."""
        layer = copy.deepcopy(self.base)
        layer.weight.mul_(self.factors[:, None])
        if layer.bias is not None:
            layer.bias.mul_(self.factors)
        return layer


class ScaledInput(Adapted):
    """A frozen linear layer with trained factors of its inputs: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear):
        super().__init__(base)
        self.factors = nn.Parameter(base.weight.new_ones(base.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x * self.factors)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """See `Adapted.merged`."""
        layer = copy.deepcopy(self.base)
        layer.weight.mul_(self.factors)
        return layer


class StackedScaledInput(Adapted):
    """Frozen matrices of E experts, with factors of their inputs: rows of x (M, in), by expert -> (M, out)."""

    def __init__(self, base: StackedLinear):
        super().__init__(base)
        n_experts, _, d_in = base.weight.shape
        # subtle: one dimension, since optimizers tell vectors from matrices by it
        self.factors = nn.Parameter(base.weight.new_ones(n_experts * d_in))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.base(x * rows_by_expert(self.factors, sizes, len(x)), sizes)

    @torch.no_grad()
    def merged(self) -> StackedLinear:
        """See `Adapted.merged`."""
        layer = copy.deepcopy(self.base)
        layer.weight.mul_(self.factors.view(len(layer.weight), 1, -1))
        return layer

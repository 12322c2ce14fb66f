"""The feed-forward half of a block: every token thinks for itself.

    MLP(x)    = down(f(up(x))),  f = ReLU, GELU or squared ReLU       Vaswani et al. 2017; So et al. 2021 (squared ReLU)
    SwiGLU(x) = down(silu(gate(x)) * up(x))                           Shazeer 2020

SwiGLU has three matrices where MLP has two, so it is given 2/3 of the width for the same parameters.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def relu2(x: Tensor) -> Tensor:
    """max(0, x)^2: as cheap as ReLU and better at the same size."""
    return F.relu(x).square()


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's mass below x (Hendrycks and Gimpel 2016), in the tanh form that GPT-2 was trained with."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # of `MLP`, by the name that a config gives them
    "relu2": relu2,
    "gelu": gelu,
    "gelu-erf": F.gelu,
    "relu": F.relu,
}


class MLP(nn.Module):
    """(B, T, D) -> (B, T, D) through F = d_ff hidden units."""

    def __init__(self, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], bias: bool = False):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class SwiGLU(nn.Module):
    """(B, T, D) -> (B, T, D) through F = d_ff gated units."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

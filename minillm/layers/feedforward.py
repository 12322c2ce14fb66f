"""Feed-forward layers: the second half of a block, applied to each token separately.

    MLP(x)    = down(f(up(x))),  f = ReLU, GELU or squared ReLU       Vaswani et al. 2017; So et al. 2021 (squared ReLU)
    SwiGLU(x) = down(silu(gate(x)) * up(x))                           Shazeer 2020; GeGLU has GELU instead of SiLU

Gated layers have three matrices where MLP has two; with 2/3 of the width they have the same number of parameters.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU, max(0, x)^2: as cheap as ReLU, and better at the same model size (So et al. 2021)."""
    return F.relu(x).square()


def gelu(x: Tensor) -> Tensor:
    """GELU (Hendrycks and Gimpel 2016): x times the standard normal probability of a value below x.

    This is the tanh approximation, with which GPT-2 was trained.
    """
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # name in a config -> activation function of `MLP`
    "relu2": relu2,
    "gelu": gelu,
    "gelu-erf": F.gelu,
    "relu": F.relu,
}


class MLP(nn.Module):
    """Multi-layer perceptron with F = d_ff hidden units: (B, T, D) -> (B, T, D)."""

    def __init__(self, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], bias: bool = False):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU of the gate, times the other half: (..., F), (..., F) -> (..., F)."""
    return F.silu(gate) * up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """GELU of the gate, times the other half: (..., F), (..., F) -> (..., F)."""
    return gelu(gate) * up


def clamped_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`swiglu` of gpt-oss (OpenAI 2025): both inputs are limited to 7, SiLU is steeper, and `up` is near 1."""
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


class SwiGLU(nn.Module):
    """Gated feed-forward layer with F = d_ff hidden units: (B, T, D) -> (B, T, D)."""

    combine = staticmethod(swiglu)

    def __init__(self, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.combine(self.gate(x), self.up(x)))


class GeGLU(SwiGLU):
    """Gated feed-forward layer with `geglu`."""

    combine = staticmethod(geglu)


class ClampedSwiGLU(SwiGLU):
    """Gated feed-forward layer with `clamped_swiglu`."""

    combine = staticmethod(clamped_swiglu)

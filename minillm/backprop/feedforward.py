"""Backward of feed-forward layers: two linear layers with an activation between them, or a gated pair.

    MLP      y = down(f(u)),  u = up(x)                             du = dh f'(u)
    SwiGLU   y = down(silu(g) u),  g = gate(x),  u = up(x)          du = dh silu(g),  dg = dh u silu'(g)
    ReLU           max(0, u)                                        1 where u > 0, else 0
    squared ReLU   max(0, u)^2                                      2 max(0, u)
    GELU           u P(u), P the normal distribution function       P(u) + u exp(-u^2 / 2) / sqrt(2 pi)
    its tanh form  u (1 + t) / 2,  t = tanh(c (u + a u^3))          (1 + t) / 2 + u (1 - t^2) c (1 + 3 a u^2) / 2
    SiLU           g s,  s = 1 / (1 + exp(-g))                      s (1 + g (1 - s))

h: input of `down`; a = 0.044715, c = sqrt(2 / pi): GPT-2's GELU (Hendrycks and Gimpel 2016). SwiGLU:
Shazeer 2020; squared ReLU: So et al. 2021. Read before: `linear`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.backprop.linear import linear, linear_backward

A, C = 0.044715, math.sqrt(2 / math.pi)


class Activation(NamedTuple):
    """An elementwise function and its derivative, both (...) -> (...)."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def gelu(u: Tensor) -> Tensor:
    """GELU, tanh form; see the module."""
    return 0.5 * u * (1 + torch.tanh(C * (u + A * u**3)))


def gelu_slope(u: Tensor) -> Tensor:
    """Derivative of `gelu`."""
    t = torch.tanh(C * (u + A * u**3))
    return 0.5 * (1 + t) + 0.5 * u * (1 - t.square()) * C * (1 + 3 * A * u.square())


def gelu_erf(u: Tensor) -> Tensor:
    """GELU, exact form; see the module."""
    return u * torch.special.ndtr(u)


def gelu_erf_slope(u: Tensor) -> Tensor:
    """Derivative of `gelu_erf`."""
    return torch.special.ndtr(u) + u * torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)


def silu(g: Tensor) -> Tensor:
    """SiLU; see the module."""
    return g * torch.sigmoid(g)


def silu_slope(g: Tensor) -> Tensor:
    """Derivative of `silu`."""
    s = torch.sigmoid(g)
    return s * (1 + g * (1 - s))


ACTIVATIONS = {
    "relu": Activation(lambda u: u.clamp(min=0), lambda u: (u > 0).to(u.dtype)),
    "relu2": Activation(lambda u: u.clamp(min=0).square(), lambda u: 2 * u.clamp(min=0)),
    "gelu": Activation(gelu, gelu_slope),
    "gelu-erf": Activation(gelu_erf, gelu_erf_slope),
}


def mlp(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: str = "gelu"
) -> tuple[Tensor, tuple]:
    """x (..., D), up (F, D), down (D, F), activation a key of ACTIVATIONS -> y (..., D), kept."""
    f = ACTIVATIONS[activation]
    u, kept_up = linear(x, up, up_bias)
    y, kept_down = linear(f.value(u), down, down_bias)
    return y, (f, u, kept_up, kept_down)


def mlp_backward(dy: Tensor, kept: tuple) -> tuple[Tensor | None, ...]:
    """dy (..., D) -> dx, dup, dup_bias, ddown, ddown_bias."""
    f, u, kept_up, kept_down = kept
    dh, *ddown = linear_backward(dy, kept_down)
    return (*linear_backward(dh * f.slope(u), kept_up), *ddown)


def swiglu(
    x: Tensor,
    gate: Tensor,
    gate_bias: Tensor | None,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
) -> tuple[Tensor, tuple]:
    """x (..., D), gate and up (F, D), down (D, F) -> y (..., D), kept."""
    g, kept_gate = linear(x, gate, gate_bias)
    u, kept_up = linear(x, up, up_bias)
    y, kept_down = linear(silu(g) * u, down, down_bias)
    return y, (g, u, kept_gate, kept_up, kept_down)


def swiglu_backward(dy: Tensor, kept: tuple) -> tuple[Tensor | None, ...]:
    """dy (..., D) -> dx, dgate, dgate_bias, dup, dup_bias, ddown, ddown_bias."""
    g, u, kept_gate, kept_up, kept_down = kept
    dh, *ddown = linear_backward(dy, kept_down)
    dx_gate, *dgate = linear_backward(dh * u * silu_slope(g), kept_gate)
    dx_up, *dup = linear_backward(dh * silu(g), kept_up)
    return dx_gate + dx_up, *dgate, *dup, *ddown

"""A complete small network: three inputs, two neurons, six weights, one right answer.

    z = W x          a = softmax(z)          L = -log a[right]
    dL/dw = dL/da * da/dz * dz/dw            w = w - lr * dL/dw

The two neurons stand for the next words "rug" and "mat" after "The cat sat on the"; the right one is "mat". The initial
weights give "rug" a probability of 0.9 and "mat" 0.1. The functions used here also train whole models (backpropagation:
Rumelhart, Hinton and Williams 1986).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.softmax import softmax

WORDS = ("rug", "mat")
RIGHT = 1
INPUTS = torch.tensor([2.0, 1.0, -1.0], dtype=torch.float64)
WEIGHTS = torch.tensor([[math.log(3), 0.5, 0.5], [0.1, 0.2, 0.4]], dtype=torch.float64)  # z = (ln 9, 0)


class Pass(NamedTuple):
    """All intermediate values of one forward and backward."""

    z: Tensor  # (2,)
    a: Tensor  # (2,)
    loss: Tensor  # ()
    dl_da: Tensor  # (2,)
    da_dz: Tensor  # (2, 2): row i has the derivatives of a_i
    dl_dz: Tensor  # (2,)
    dl_dw: Tensor  # (2, 3)


def step_by_step(weights: Tensor, inputs: Tensor = INPUTS, right: int = RIGHT) -> Pass:
    """Forward and backward for weights (2, 3)."""
    z, kept_linear = linear(inputs, weights)
    a, _ = softmax(z)
    loss, kept_loss = cross_entropy(z, torch.tensor(right))
    dl_da = torch.zeros_like(a)
    dl_da[right] = -1 / a[right]
    da_dz = torch.diag(a) - torch.outer(a, a)
    dl_dz = cross_entropy_backward(1.0, kept_loss)
    _, dl_dw, _ = linear_backward(dl_dz, kept_linear)
    return Pass(z, a, loss, dl_da, da_dz, dl_dz, dl_dw)


def numerically(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """The numerical gradient of f at x, by (f(x + h) - f(x - h)) / 2 h for each element; same shape as x."""
    derivative = torch.zeros_like(x)
    for i in range(x.numel()):
        nudge = torch.zeros_like(x)
        nudge.view(-1)[i] = h
        derivative.view(-1)[i] = (f(x + nudge) - f(x - nudge)) / (2 * h)
    return derivative


def descend(weights: Tensor, lr: float, n_steps: int) -> list[Pass]:
    """Gradient descent from `weights`: the passes before the first update and after each one."""
    passes = []
    for _ in range(n_steps + 1):
        passes.append(step_by_step(weights))
        weights = weights - lr * passes[-1].dl_dw
    return passes

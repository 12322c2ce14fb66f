"""Gradients of one step: set to zero, summed over micro-batches, divided once, clipped.

    g = (g_1 + ... + g_n) / count                   each g_i is the gradient of a summed loss
    g = g * min(1, max_norm / |g|)                  |g| is the norm over all parameters together (Pascanu et al. 2013)

Every parameter keeps its gradient in `.grad`, where `backward` adds to it and the optimizer reads it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Gradients:
    """The gradients of some parameters, each in its `.grad`."""

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)

    def zero(self) -> None:
        """Set every gradient to zeros. With None, parameters that a batch does not use would have no weight decay."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def divide(self, count: int) -> None:
        """Turn the gradient of a sum over `count` targets into that of their mean; a sum over none stays as it is."""
        for parameter in self.parameters:
            parameter.grad /= max(count, 1)

    def clip(self, max_norm: float) -> float:
        """Apply `clip_gradients`."""
        return clip_gradients(self.parameters, max_norm)


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale the gradient of all parameters together to at most `max_norm`; returns the norm before. 0 is no limit.

    Parameters without a `.grad` are left out.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = gradient_norm(gradients)
    if max_norm and norm > max_norm:
        for gradient in gradients:
            gradient *= max_norm / norm
    return norm


def gradient_norm(gradients: Iterable[Tensor]) -> float:
    """Compute the norm of some tensors as if they were one vector.

    subtle: a norm of norms, tensor by tensor. In float32 a single sum of a hundred million squares is off by a percent.
    """
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))

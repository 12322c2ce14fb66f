"""Backward of attention: two matrix products with a softmax between them, in reverse order.

    S = q k^T / sqrt(K),   P = softmax(S),   y = P v                                        Vaswani et al. 2017
    dv = P^T dy,   dP = dy v^T,   dS = P * (dP - sum(dP * P)),   dq = dS k / sqrt(K),   dk = dS^T q / sqrt(K)

A masked score has P = 0, so its derivative is 0. Heads of one group share k and v (Ainslie et al. 2023), whose
derivatives are sums over those heads. Rotary positions (Su et al. 2021) rotate q and k first; the derivative of a
rotation is the opposite rotation. Learned positions are an `embedding` added below the layers. Read before: `softmax`.
"""

import math

import torch
from torch import Tensor

from minillm.backprop.softmax import softmax, softmax_backward


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, tuple]:
    """q (B, H, T, K), k and v (B, G, S, K), mask (B or 1, G or 1, T, S), True where visible -> y (B, H, T, K), kept.

    A query whose slots are all masked gets zeros.
    """
    q = q.unflatten(1, (k.shape[1], -1))  # (B, G, H / G, T, K)
    k, v, mask = k[:, :, None], v[:, :, None], mask[:, :, None]
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    weights = softmax(scores)[0].masked_fill(~mask.any(-1, keepdim=True), 0.0)  # (B, G, H / G, T, S)
    return (weights @ v).flatten(1, 2), (q, k, v, weights)


def attend_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Tensor]:
    """dy (B, H, T, K) -> dq (B, H, T, K), dk and dv (B, G, S, K)."""
    q, k, v, weights = kept
    dy = dy.unflatten(1, q.shape[1:3])
    dscores = softmax_backward(dy @ v.mT, weights) / math.sqrt(q.shape[-1])
    return (dscores @ k).flatten(1, 2), (dscores.mT @ q).sum(2), (weights.mT @ dy).sum(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + K/2}): x (..., T, K), cos and sin (..., T, K/2) -> (..., T, K).

    >>> rotate(torch.tensor([1.0, 0.0]), cos=torch.tensor([0.0]), sin=torch.tensor([1.0]))
    tensor([0., 1.])
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotate_backward(dy: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """dy (..., T, K) -> dx (..., T, K)."""
    return rotate(dy, cos, -sin)

"""A mixture of experts: a router asks k of E feed-forwards, and weighs what they answer.

    s = router x,   g = softmax over the k largest of s,   y = sum of g_e expert_e(x) over those k          Shazeer et al. 2017
    dexpert_e(x) = g_e dy,   dg_e = dy . expert_e(x),   ds = softmax's backward for the k, 0 for the others

The softmax over the k largest is the softmax over all of them, divided by what the k have together. Which k were asked does not
change with a small step, so the choice itself has no derivative. Read `feedforward` and `softmax` before this.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minillm.backprop.feedforward import swiglu, swiglu_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.softmax import softmax, softmax_backward

Experts = list[tuple[Tensor | None, ...]]  # the tensors of each expert, as its forward takes them after x
SWIGLU = swiglu, swiglu_backward


def moe(
    x: Tensor, router: Tensor, experts: Experts, n_experts_per_token: int, expert: tuple[Callable, Callable] = SWIGLU
) -> tuple[Tensor, tuple]:
    """x (N, D), router (E, D), `expert` the forward and backward that all E share -> y (N, D), kept."""
    scores, kept_router = linear(x, router)
    largest, chosen = scores.topk(n_experts_per_token, dim=-1)  # (N, k)
    gates, _ = softmax(largest)
    y, kept_experts = torch.zeros_like(x), []
    for e, weights in enumerate(experts):
        rows, rank = (chosen == e).nonzero(as_tuple=True)
        answer, kept_expert = expert[0](x[rows], *weights)
        y.index_add_(0, rows, gates[rows, rank, None] * answer)
        kept_experts.append((rows, rank, answer, kept_expert))
    return y, (kept_router, chosen, gates, kept_experts, expert[1])


def moe_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Experts]:
    """dy (N, D) -> dx (N, D), drouter (E, D), dexperts in the form of `experts`."""
    kept_router, chosen, gates, kept_experts, expert_backward = kept
    dgates, dx_experts, dexperts = torch.zeros_like(gates), torch.zeros_like(dy), []
    for rows, rank, answer, kept_expert in kept_experts:
        dgates[rows, rank] = (dy[rows] * answer).sum(-1)
        dx, *dweights = expert_backward(gates[rows, rank, None] * dy[rows], kept_expert)
        dx_experts.index_add_(0, rows, dx)
        dexperts.append(tuple(dweights))
    dscores = dy.new_zeros(len(dy), len(dexperts)).scatter(1, chosen, softmax_backward(dgates, gates))
    dx, drouter, _ = linear_backward(dscores, kept_router)
    return dx + dx_experts, drouter, dexperts

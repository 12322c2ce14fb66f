"""Backward of a mixture of experts: a router chooses k of E feed-forward layers and weights them (Shazeer et al. 2017).

    s = router x,   g = softmax over the k largest of s,   y = sum of g_e expert_e(x) over those k
    dexpert_e(x) = g_e dy,   dg_e = dy . expert_e(x),   ds = softmax's backward for the k, 0 for the others

The softmax over the k largest equals the softmax over all, divided by the sum over the k. A small change of x does not
change which k are chosen, so the choice has no derivative. Read before: `feedforward`, `softmax`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minillm.backprop.feedforward import swiglu, swiglu_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.softmax import softmax, softmax_backward

Experts = list[tuple[Tensor | None, ...]]  # for each expert, the arguments of its forward after x
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
        output, kept_expert = expert[0](x[rows], *weights)
        y.index_add_(0, rows, gates[rows, rank, None] * output)
        kept_experts.append((rows, rank, output, kept_expert))
    return y, (kept_router, chosen, gates, kept_experts, expert[1])


def moe_backward(dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor, Experts]:
    """dy (N, D) -> dx (N, D), drouter (E, D), dexperts in the form of `experts`."""
    kept_router, chosen, gates, kept_experts, expert_backward = kept
    dgates, dx_experts, dexperts = torch.zeros_like(gates), torch.zeros_like(dy), []
    for rows, rank, output, kept_expert in kept_experts:
        dgates[rows, rank] = (dy[rows] * output).sum(-1)
        dx, *dweights = expert_backward(gates[rows, rank, None] * dy[rows], kept_expert)
        dx_experts.index_add_(0, rows, dx)
        dexperts.append(tuple(dweights))
    dscores = dy.new_zeros(len(dy), len(dexperts)).scatter(1, chosen, softmax_backward(dgates, gates))
    dx, drouter, _ = linear_backward(dscores, kept_router)
    return dx + dx_experts, drouter, dexperts

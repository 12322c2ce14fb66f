"""Mixture of experts: many feed-forwards, of which every token asks only a few.

    probs = softmax(router x)      chosen = the k experts of highest prob      y = sum over chosen of weight_e * expert_e(x)

The weights are the chosen probs over their sum, as in Mixtral (Jiang et al. 2024; Shazeer et al. 2017). A single choice
is weighed by its prob itself, as in Switch (Fedus et al. 2022): divided by its sum it would be 1, and the router would
learn nothing from it. Choices are sorted by expert, so each expert multiplies one contiguous slice, and compute grows
with the chosen experts only. A router that is left alone sends everything to its favorites; three remedies, used in
`training/balance.py`:

    balance = E * sum over e of (share of choices)_e * (mean prob)_e     1 when even; Shazeer et al. 2017, Fedus et al. 2022
    z       = mean of logsumexp(logits)^2                                logits stay small; Zoph et al. 2022 (ST-MoE)
    bias_e += rate * sign(mean count - count_e)                          on the choice only, no loss; Wang et al. 2024 (DeepSeek-V3)

Read `feedforward` before this.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routing(NamedTuple):
    """The decisions of a router for N tokens, each with k choices among E experts."""

    logits: Tensor  # (N, E), in float32 at least
    probs: Tensor  # (N, E), their softmax
    experts: Tensor  # (k, N) long: the first choice of every token, then the second of every token, ...
    weights: Tensor  # (k, N): what each chosen expert's answer is multiplied by
    counts: Tensor  # (E,) long: choices that fell on each expert
    sizes: list[int]  # choices that each expert serves: `counts`, unless there is a capacity
    order: Tensor  # (k N,) long: places of choices in the flattened `experts`, expert by expert, dropped ones last

    @property
    def n_dropped(self) -> int:
        """Choices that found their expert full."""
        return len(self.order) - sum(self.sizes)


class Router(nn.Module):
    """Tokens (N, D) -> `Routing`."""

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        n_experts_per_token: int,
        *,
        capacity_factor: float = 0.0,
        balance_loss: float = 0.0,
        z_loss: float = 0.0,
        balance_rate: float = 0.0,
    ):
        """`balance_loss` and `z_loss` weigh the losses, `balance_rate` is a step of the bias; whoever trains applies them.

        In training an expert serves at most `capacity_factor` times its fair share of a batch, first choices before
        second ones, early tokens before late ones; 0 is no limit. In evaluation all are served, so that no answer
        depends on who else asks.
        """
        super().__init__()
        if n_experts_per_token > n_experts:
            raise ValueError(
                f"n_experts_per_token = {n_experts_per_token}: expected at most n_experts = {n_experts}; change one of them"
            )
        self.n_experts, self.n_experts_per_token, self.capacity_factor = n_experts, n_experts_per_token, capacity_factor
        self.balance_loss, self.z_loss, self.balance_rate = balance_loss, z_loss, balance_rate
        self.weigh = _as_they_are if n_experts_per_token == 1 else _over_their_sum
        self.weight = nn.Parameter(torch.randn(n_experts, d_model) / math.sqrt(d_model))
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(n_experts))  # of the choice; the weights do not know it

    def forward(self, x: Tensor) -> Routing:
        k, dtype = self.n_experts_per_token, torch.promote_types(x.dtype, torch.float32)
        logits = F.linear(x.to(dtype), self.weight.to(dtype))  # (N, E)
        probs = torch.softmax(logits.T, dim=0).T  # the same as over the last dimension
        experts = (probs.detach() + self.bias).topk(k, dim=-1).indices  # (N, k)
        weights = self.weigh(probs.gather(1, experts))
        choices = experts.T.flatten()  # (k N,)
        counts = torch.bincount(choices, minlength=self.n_experts)
        order, served = choices.argsort(stable=True), counts
        if self.training and self.capacity_factor:
            served = counts.clamp(max=math.ceil(self.capacity_factor * len(choices) / self.n_experts))
            order = _dropped_last(choices, order, counts, served)
        return Routing(logits, probs, experts.T, weights.T, counts, served.tolist(), order)


def balance_loss(probs: Tensor, counts: Tensor) -> Tensor:
    """probs (N, E) and counts (E,) -> scalar: 1 for even counts or even probs, whatever k is; up to E where all agree on few experts."""
    shares = counts.to(probs.dtype) / counts.sum().clamp(min=1)
    return len(counts) * (shares * probs.sum(0)).sum() / max(len(probs), 1)


def z_loss(logits: Tensor) -> Tensor:
    """logits (N, E) -> scalar: how far the normalizers of the softmax are from 1, in squared nats."""
    return torch.logsumexp(logits, dim=-1).square().sum() / max(len(logits), 1)


class StackedLinear(nn.Module):
    """E linear maps without biases: the rows of x (M, D), sorted by expert, -> (M, F). Rows that belong to no expert become 0."""

    def __init__(self, n_experts: int, d_in: int, d_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_experts, d_out, d_in) / math.sqrt(d_in))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        """`sizes` says how many rows each expert has, in order."""
        *slices, rest = x.split([*sizes, len(x) - sum(sizes)])
        answers = [rows @ matrix.T for rows, matrix in zip(slices, self.weight, strict=True)]
        return torch.cat([*answers, rest.new_zeros(len(rest), self.weight.shape[1])])


class ExpertMLPs(nn.Module):
    """E times `MLP`: (M, D) sorted by expert -> (M, D)."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.up = StackedLinear(n_experts, d_model, d_ff)
        self.down = StackedLinear(n_experts, d_ff, d_model)
        self.activation = activation

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.down(self.activation(self.up(x, sizes)), sizes)


class ExpertSwiGLUs(nn.Module):
    """E times `SwiGLU`: (M, D) sorted by expert -> (M, D)."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int):
        super().__init__()
        self.gate = StackedLinear(n_experts, d_model, d_ff)
        self.up = StackedLinear(n_experts, d_model, d_ff)
        self.down = StackedLinear(n_experts, d_ff, d_model)

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.down(F.silu(self.gate(x, sizes)) * self.up(x, sizes), sizes)


class NoSharedExpert(nn.Module):
    """Says nothing."""

    def forward(self, x: Tensor) -> float:
        return 0.0


class MoE(nn.Module):
    """(..., D) -> (..., D): the chosen experts' answers, and that of a shared expert whom all ask (Dai et al. 2024, DeepSeekMoE).

    Every row counts as a token: whoever has padding leaves it out (see `block`).
    """

    def __init__(self, router: Router, experts: nn.Module, shared: nn.Module):
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        routing = self.router(tokens)
        asked = tokens[routing.order % max(len(tokens), 1)]  # (k N, D), expert by expert
        answers = self.experts(asked, routing.sizes)[routing.order.argsort()]  # choice by choice again
        combined = (routing.weights.to(x.dtype)[..., None] * answers.unflatten(0, routing.weights.shape)).sum(
            0
        )  # (N, D)
        return (combined + self.shared(tokens)).view_as(x)


def _over_their_sum(probs: Tensor) -> Tensor:
    return probs / probs.sum(-1, keepdim=True)


def _as_they_are(probs: Tensor) -> Tensor:
    return probs


def _dropped_last(choices: Tensor, order: Tensor, counts: Tensor, served: Tensor) -> Tensor:
    """`order` with the choices that come too late for their expert moved to the end."""
    sorted_choices = choices[order]
    first = counts.cumsum(0) - counts  # (E,): where each expert's slice begins
    rank = torch.arange(len(order), device=order.device) - first[sorted_choices]
    return order[(rank >= served[sorted_choices]).long().argsort(stable=True)]

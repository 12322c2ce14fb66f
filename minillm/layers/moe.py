"""Mixture of experts (MoE): many feed-forward networks, with a router that sends each token to a few of them.

    probs = softmax(router x)      chosen = the k experts of highest prob
    y = sum over chosen of weight_e * expert_e(x)

The weights are the chosen probs divided by their sum, as in Mixtral (Jiang et al. 2024; Shazeer et al. 2017). If k = 1,
the weight is the prob itself, as in Switch (Fedus et al. 2022): divided by its sum it would be 1, and the model's
loss would give the router no gradient. Choices are sorted by expert, so each expert multiplies one contiguous slice,
and the cost grows with k, not with E. Without a remedy the router sends most tokens to a few experts. Three remedies,
applied in `training/balance.py`:

    balance = E * sum over e of (share of choices)_e * (mean prob)_e   1 if even; Shazeer et al. 2017, Fedus et al. 2022
    z       = mean of logsumexp(logits)^2                              keeps logits small; Zoph et al. 2022 (ST-MoE)
    bias_e += rate * sign(mean count - count_e)                        changes only the choice, without a loss;
                                                                       Wang et al. 2024 (DeepSeek-V3)

Read `feedforward` before this.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.layers.feedforward import clamped_swiglu, geglu, swiglu


class Routing(NamedTuple):
    """A router's decisions for N tokens, each with k choices among E experts."""

    logits: Tensor  # (N, E), in float32 or wider
    probs: Tensor  # (N, E), their softmax
    experts: Tensor  # (k, N) long: the first choice of every token, then the second of every token, ...
    weights: Tensor  # (k, N): the factor of each chosen expert's output
    counts: Tensor  # (E,) long: number of choices of each expert
    sizes: list[int]  # number of choices that each expert serves: `counts`, unless there is a capacity
    order: Tensor  # (k N,) long: indices into the flattened `experts`, sorted by expert, dropped choices last

    @property
    def n_dropped(self) -> int:
        """Number of choices beyond the capacity of their expert."""
        return len(self.order) - sum(self.sizes)


class Router(nn.Module):
    """A linear router with top-k choice: tokens (N, D) -> `Routing`."""

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
        """`balance_loss` and `z_loss` are weights of the losses, `balance_rate` is one step of the bias.

        The training step applies all three. In training an expert serves at most `capacity_factor` times its even share
        of a batch, first choices before second ones, early tokens before late ones; 0 is no limit. In evaluation every
        choice is served, so that no output depends on the other tokens of the batch.
        """
        super().__init__()
        if n_experts_per_token > n_experts:
            raise ValueError(
                f"n_experts_per_token = {n_experts_per_token}: expected at most n_experts = {n_experts}; "
                "change one of them"
            )
        self.n_experts, self.n_experts_per_token, self.capacity_factor = n_experts, n_experts_per_token, capacity_factor
        self.balance_loss, self.z_loss, self.balance_rate = balance_loss, z_loss, balance_rate
        self.weigh = _as_they_are if n_experts_per_token == 1 else _over_their_sum
        self.weight = nn.Parameter(torch.randn(n_experts, d_model) / math.sqrt(d_model))
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(n_experts))  # added for the choice only, not for the weights

    def score(self, x: Tensor) -> Tensor:
        """The logits of tokens x (N, D), in float32 or wider: (N, E)."""
        return F.linear(x, self.weight.to(x.dtype))

    def forward(self, x: Tensor) -> Routing:
        k, dtype = self.n_experts_per_token, torch.promote_types(x.dtype, torch.float32)
        logits = self.score(x.to(dtype))  # (N, E)
        probs = torch.softmax(logits.T, dim=0).T  # the same numbers as softmax over the last dimension
        experts = (probs.detach() + self.bias).topk(k, dim=-1).indices  # (N, k)
        weights = self.weigh(probs.gather(1, experts))
        choices = experts.T.flatten()  # (k N,)
        counts = torch.bincount(choices, minlength=self.n_experts)
        order, served = choices.argsort(stable=True), counts
        if self.training and self.capacity_factor:
            served = counts.clamp(max=math.ceil(self.capacity_factor * len(choices) / self.n_experts))
            order = _dropped_last(choices, order, counts, served)
        return Routing(logits, probs, experts.T, weights.T, counts, served.tolist(), order)


class BiasedRouter(Router):
    """A `Router` whose linear layer has a trained bias, `offset` (gpt-oss, OpenAI 2025).

    It changes logits and weights; the buffer `bias` of every router balances the load and changes the choice only.
    """

    def __init__(self, d_model: int, n_experts: int, n_experts_per_token: int, **how: float):
        super().__init__(d_model, n_experts, n_experts_per_token, **how)
        self.offset = nn.Parameter(torch.zeros(n_experts))

    def score(self, x: Tensor) -> Tensor:
        return super().score(x) + self.offset.to(x.dtype)


def balance_loss(probs: Tensor, counts: Tensor) -> Tensor:
    """Load-balancing loss: probs (N, E) and counts (E,) -> scalar.

    It is 1 for even counts or even probs, for any k. Its maximum is E / k, reached if all tokens put all prob on the
    same k experts.
    """
    shares = counts.to(probs.dtype) / counts.sum().clamp(min=1)
    return len(counts) * (shares * probs.sum(0)).sum() / max(len(probs), 1)


def z_loss(logits: Tensor) -> Tensor:
    """Router z-loss: logits (N, E) -> scalar, the mean squared logarithm of the softmax normalizer, in squared nats."""
    return torch.logsumexp(logits, dim=-1).square().sum() / max(len(logits), 1)


class StackedLinear(nn.Module):
    """E linear maps without biases: rows of x (M, D), sorted by expert -> (M, F). Rows of no expert become 0."""

    def __init__(self, n_experts: int, d_in: int, d_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_experts, d_out, d_in) / math.sqrt(d_in))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        """`sizes` is the number of rows of each expert, in order."""
        *slices, rest = x.split([*sizes, len(x) - sum(sizes)])
        answers = [rows @ matrix.T for rows, matrix in zip(slices, self.weight, strict=True)]
        return torch.cat([*answers, rest.new_zeros(len(rest), self.weight.shape[1])])


class BiasedStackedLinear(StackedLinear):
    """E linear maps with biases: rows of x (M, D), sorted by expert -> (M, F). Rows of no expert become 0."""

    def __init__(self, n_experts: int, d_in: int, d_out: int):
        super().__init__(n_experts, d_in, d_out)
        # subtle: one dimension, (E F,), since initialization and optimizers tell vectors from matrices by it
        self.bias = nn.Parameter(torch.zeros(n_experts * d_out))

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return super().forward(x, sizes) + rows_by_expert(self.bias, sizes, len(x))


def rows_by_expert(vectors: Tensor, sizes: list[int], n_rows: int) -> Tensor:
    """The vector of each row's expert: vectors (E F,), rows by expert -> (n_rows, F); 0 for rows of no expert."""
    found = vectors.view(len(sizes), -1).repeat_interleave(torch.tensor(sizes, device=vectors.device), dim=0)
    return F.pad(found, (0, 0, 0, n_rows - len(found)))


def stacked(n_experts: int, d_in: int, d_out: int, bias: bool) -> StackedLinear:
    """E linear maps, with or without biases."""
    return (BiasedStackedLinear if bias else StackedLinear)(n_experts, d_in, d_out)


class ExpertMLPs(nn.Module):
    """E experts, each an `MLP`: rows (M, D), sorted by expert -> (M, D)."""

    def __init__(
        self, n_experts: int, d_model: int, d_ff: int, activation: Callable[[Tensor], Tensor], bias: bool = False
    ):
        super().__init__()
        self.up = stacked(n_experts, d_model, d_ff, bias)
        self.down = stacked(n_experts, d_ff, d_model, bias)
        self.activation = activation

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.down(self.activation(self.up(x, sizes)), sizes)


class ExpertSwiGLUs(nn.Module):
    """E experts, each a `SwiGLU`: rows (M, D), sorted by expert -> (M, D)."""

    combine = staticmethod(swiglu)

    def __init__(self, n_experts: int, d_model: int, d_ff: int, bias: bool = False):
        super().__init__()
        self.gate = stacked(n_experts, d_model, d_ff, bias)
        self.up = stacked(n_experts, d_model, d_ff, bias)
        self.down = stacked(n_experts, d_ff, d_model, bias)

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.down(self.combine(self.gate(x, sizes), self.up(x, sizes)), sizes)


class ExpertGeGLUs(ExpertSwiGLUs):
    """E experts, each a `GeGLU`: rows (M, D), sorted by expert -> (M, D)."""

    combine = staticmethod(geglu)


class ExpertClampedSwiGLUs(ExpertSwiGLUs):
    """E experts, each a `ClampedSwiGLU`: rows (M, D), sorted by expert -> (M, D)."""

    combine = staticmethod(clamped_swiglu)


class NoSharedExpert(nn.Module):
    """Stands in for a shared expert where there is none; returns 0."""

    def forward(self, x: Tensor) -> float:
        return 0.0


class MoE(nn.Module):
    """(..., D) -> (..., D): the weighted outputs of the chosen experts, plus that of a shared expert for every token.

    Shared experts are from DeepSeekMoE (Dai et al. 2024). Every row counts as a token: the caller leaves padding out
    (see `block`).
    """

    def __init__(self, router: Router, experts: nn.Module, shared: nn.Module):
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])  # (N, D)
        routing = self.router(tokens)
        asked = tokens[routing.order % max(len(tokens), 1)]  # (k N, D), expert by expert
        answers = self.experts(asked, routing.sizes)[routing.order.argsort()]  # back in the order of `experts`
        answers = answers.unflatten(0, routing.weights.shape)  # (k, N, D)
        combined = (routing.weights.to(x.dtype)[..., None] * answers).sum(0)  # (N, D)
        return (combined + self.shared(tokens)).view_as(x)


def _over_their_sum(probs: Tensor) -> Tensor:
    return probs / probs.sum(-1, keepdim=True)


def _as_they_are(probs: Tensor) -> Tensor:
    return probs


def _dropped_last(choices: Tensor, order: Tensor, counts: Tensor, served: Tensor) -> Tensor:
    """`order`, with the choices beyond each expert's capacity moved to the end."""
    sorted_choices = choices[order]
    first = counts.cumsum(0) - counts  # (E,): index at which each expert's slice begins
    rank = torch.arange(len(order), device=order.device) - first[sorted_choices]
    return order[(rank >= served[sorted_choices]).long().argsort(stable=True)]

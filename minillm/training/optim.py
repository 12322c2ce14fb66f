"""Optimizers: AdamW for all parameters, or Muon for the matrices of the blocks and AdamW for the rest.

AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), with m and v running means of the gradient g and of g^2:

    m = beta1 m + (1 - beta1) g              v = beta2 v + (1 - beta2) g^2
    p = p - lr * weight_decay * p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

Muon (Jordan et al. 2024) steps along the orthogonal matrix nearest to the momentum, so the step has the same size in
every direction:

    m = momentum m + (1 - momentum) g        p = p - lr * weight_decay * p
    p = p - lr * sqrt(max(1, rows / columns)) * orthogonal((1 - momentum) g + momentum m)

Five Newton-Schulz steps of matrix products push all singular values towards 1, without a decomposition. Weight decay
applies only to parameters of two or more dimensions, not to norms and biases. Both work on any module:
`AdamW(module.parameters(), lr=1e-3)`. `speed/fused_adamw.py` and `speed/grouped_muon.py` compute the same faster.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from minillm.config.fields import Above, AtLeast, Between, Choice, validate
from minillm.layers.moe import StackedLinear
from minillm.system.processor import has_bfloat16


class AdamW:
    """AdamW (see the module). Weight decay applies to parameters of two or more dimensions."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        self.parameters = list(parameters)
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]  # number of updates

    @torch.no_grad()
    def step(self, fraction: float = 1.0) -> None:
        """Update every parameter that has a .grad, at `fraction` of the peak learning rate."""
        lr = self.lr * fraction
        for p, m, v, t in zip(self.parameters, self.m, self.v, self.t, strict=True):
            if p.grad is None:
                continue
            t += 1
            m.copy_(self.beta1 * m + (1 - self.beta1) * p.grad)
            v.copy_(self.beta2 * v + (1 - self.beta2) * p.grad**2)
            m_hat = m / (1 - self.beta1 ** float(t))
            v_hat = v / (1 - self.beta2 ** float(t))
            if p.ndim >= 2:
                p -= lr * self.weight_decay * p
            p -= lr * m_hat / (v_hat.sqrt() + self.eps)

    def zero_grad(self) -> None:
        """Set every .grad to None."""
        _forget_gradients(self.parameters)

    def state_dict(self) -> dict:
        """The state that a resumed run needs."""
        return {"m": self.m, "v": self.v, "t": self.t}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        _copy(self.m + self.v + self.t, state["m"] + state["v"] + state["t"])


class Muon:
    """Muon (see the module), for matrices (R, C) and stacks (E, R, C) of matrices that are updated independently."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.1
    ):
        """Raises ValueError for a parameter of fewer than two dimensions."""
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.bfloat16 = all(has_bfloat16(p.device) for p in self.parameters)
        for p in self.parameters:
            if p.ndim < 2:
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)}: expected at least two dimensions for Muon; "
                    "give it to AdamW"
                )

    @torch.no_grad()
    def step(self, fraction: float = 1.0) -> None:
        """Update every parameter that has a .grad, at `fraction` of the peak learning rate."""
        lr = self.lr * fraction
        for p, m in zip(self.parameters, self.m, strict=True):
            if p.grad is None:
                continue
            m.lerp_(p.grad, 1 - self.momentum)
            ahead = p.grad.lerp(m, self.momentum)  # Nesterov momentum: looks one update of m ahead
            rows, columns = p.shape[-2:]
            p -= lr * self.weight_decay * p
            p -= lr * max(1, rows / columns) ** 0.5 * orthogonal(ahead, self.bfloat16)

    def zero_grad(self) -> None:
        """Set every .grad to None."""
        _forget_gradients(self.parameters)

    def state_dict(self) -> dict:
        """The state that a resumed run needs."""
        return {"m": self.m}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        _copy(self.m, state["m"])


class Together:
    """Several optimizers, each with its own parameters, used as one."""

    def __init__(self, members: list[AdamW | Muon]):
        self.members = members

    def step(self, fraction: float = 1.0) -> None:
        """Take a step with every optimizer."""
        for member in self.members:
            member.step(fraction)

    def zero_grad(self) -> None:
        """Set every .grad to None."""
        for member in self.members:
            member.zero_grad()

    def state_dict(self) -> dict:
        """The state that a resumed run needs."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        for member, saved in zip(self.members, state["members"], strict=True):
            member.load_state_dict(saved)


Optimizer = AdamW | Muon | Together


def all_with_adamw(model: nn.Module, c: "OptimConfig") -> Optimizer:
    """AdamW for all trained parameters."""
    return _adamw([p for p in model.parameters() if p.requires_grad], c)


def matrices_with_muon(model: nn.Module, c: "OptimConfig") -> Optimizer:
    """Muon for the matrices of the blocks, AdamW for the rest: embeddings, the head, routers and recurrent layers.

    AdamW trains the whole of an adapter without matrices, such as (IA)3.
    """
    matrices = {
        f"{path}.weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | StackedLinear)
        if "head" not in path.split(".") and module.weight.requires_grad
    }
    if not matrices and all(p.requires_grad for p in model.parameters()):
        name = type(model).__name__
        raise ValueError(
            f"optim.kind = muon: expected linear layers to train inside the {name}, found none; use --optim.kind adamw"
        )
    rest = [p for name, p in model.named_parameters() if p.requires_grad and name not in matrices]
    if not matrices:
        return _adamw(rest, c)
    muon = Muon(matrices.values(), c.muon_lr, c.momentum, c.weight_decay)
    return Together([muon, _adamw(rest, c)]) if rest else muon


def _adamw(parameters: list[Tensor], c: "OptimConfig") -> AdamW:
    return AdamW(parameters, c.lr, c.beta1, c.beta2, c.eps, c.weight_decay)


OPTIMIZERS = {"muon": matrices_with_muon, "adamw": all_with_adamw}


@dataclass(frozen=True)
class OptimConfig:
    """Which optimizer, and its learning rates."""

    kind: Annotated[str, Choice(OPTIMIZERS)] = "muon"  # muon: muon in the blocks, adamw elsewhere; adamw: everywhere
    lr: Annotated[float, Above(0)] = 3e-3  # peak learning rate of adamw
    min_lr: Annotated[float, Above(0)] = 3e-5  # learning rate at the last step; muon's falls in the same proportion
    muon_lr: Annotated[float, Above(0)] = 0.02  # peak learning rate of muon
    weight_decay: Annotated[float, AtLeast(0)] = 0.1  # pull towards zero, on matrices only, times the learning rate
    beta1: Annotated[float, Between(0, 0.9999)] = 0.9  # adamw: decay of the running mean of the gradient
    beta2: Annotated[float, Between(0, 0.99999)] = 0.95  # adamw: decay of the running mean of its square
    momentum: Annotated[float, Between(0, 0.9999)] = 0.95  # muon: decay of the running mean of the gradient
    eps: Annotated[float, Above(0)] = 1e-8  # adamw: keeps the division finite

    def __post_init__(self) -> None:
        validate(self)
        if self.min_lr > self.lr:
            raise ValueError(f"optim.min_lr = {self.min_lr}: expected at most optim.lr = {self.lr}; lower it")


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer of all trained parameters. Raises ValueError for Muon if there is no matrix for it."""
    return OPTIMIZERS[config.kind](model, config)


def orthogonal(x: Tensor, bfloat16: bool = False, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices near 1: x (..., R, C) -> (..., R, C), singular values 0.68 ... 1.21.

    Each Newton-Schulz step applies the quintic a s + b s^3 + c s^5 to every singular value s. Its slope at 0 is 3.4, so
    small values grow quickly: all above 1/500 of the norm of x reach this range, smaller ones stay below it. With
    `bfloat16` the products of float32 matrices are computed in bfloat16, which is exact enough for a direction. This
    is faster only where bfloat16 is native (see `has_bfloat16`).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    y = x.bfloat16() if bfloat16 and x.dtype != torch.float64 else x
    y = y.mT if x.shape[-2] > x.shape[-1] else y  # so that y y^T below is the smaller of the two products
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if x.shape[-2] > x.shape[-1] else y).to(x.dtype)


def _forget_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _copy(into: list[Tensor], saved: list[Tensor]) -> None:
    for mine, other in zip(into, saved, strict=True):
        mine.copy_(other)

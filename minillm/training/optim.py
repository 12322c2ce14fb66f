"""From gradients to steps: AdamW for everything, or Muon for the matrices inside the stack and AdamW for the rest.

AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), with m and v running means of the gradient g and of g^2:

    p = p - lr * weight_decay * p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

Muon (Jordan et al. 2024) steps along the nearest orthogonal matrix to the momentum, so that every direction moves as far:

    p = p - lr * weight_decay * p - lr * sqrt(max(1, rows / columns)) * orthogonal(g + momentum * m)

Five Newton-Schulz steps of matrix products push all singular values towards 1; no decomposition is needed. Matrices of one shape
are orthogonalized together, as one batch. Only parameters of two or more dimensions decay: norms and biases have nothing to shrink.

AdamW's equation is one call of torch's fused kernel, which reads and writes every number once, where an operation for every symbol
does so for each. `tests/training/test_optim.py` has those operations, and holds both equal; benchmarks/NOTES.md has the times.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from minillm.config.fields import Above, AtLeast, Between, validate
from minillm.layers.moe import StackedLinear


@dataclass(frozen=True)
class OptimConfig:
    """Which optimizer, and how far it steps."""

    kind: Literal["muon", "adamw"] = (
        "muon"  # muon: for the matrices inside the stack, adamw for all else; adamw: for everything
    )
    lr: Annotated[float, Above(0)] = 3e-3  # peak learning rate of adamw
    min_lr: Annotated[float, Above(0)] = 3e-5  # learning rate at the last step; muon's falls in the same proportion
    muon_lr: Annotated[float, Above(0)] = 0.02  # peak learning rate of muon
    weight_decay: Annotated[float, AtLeast(0)] = 0.1  # pull towards zero, on matrices only, times the learning rate
    beta1: Annotated[float, Between(0, 0.9999)] = 0.9  # adamw: memory of the gradient
    beta2: Annotated[float, Between(0, 0.99999)] = 0.95  # adamw: memory of its square
    momentum: Annotated[float, Between(0, 0.9999)] = 0.95  # muon: memory of the gradient
    eps: Annotated[float, Above(0)] = 1e-8  # adamw: keeps the division finite

    def __post_init__(self) -> None:
        validate(self)
        if self.min_lr > self.lr:
            raise ValueError(f"optim.min_lr = {self.min_lr}: expected at most optim.lr = {self.lr}; lower it")


class AdamW:
    """See the module. Of the parameters, those of two or more dimensions decay."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, beta1: float, beta2: float, eps: float, weight_decay: float
    ):
        self.parameters = list(parameters)
        self.lr, self.beta1, self.beta2, self.eps, self.weight_decay = lr, beta1, beta2, eps, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = [
            torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters
        ]  # updates so far, of each

    @torch.no_grad()
    def step(self, fraction: float = 1.0) -> None:
        """One update of every parameter from its .grad, at `fraction` of the peak learning rate; one without a .grad stays as it is."""
        how = {
            "lr": self.lr * fraction,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "eps": self.eps,
            "amsgrad": False,
            "maximize": False,
        }
        every = list(zip(self.parameters, self.m, self.v, self.t, strict=True))
        for decays, decay in ((True, self.weight_decay), (False, 0.0)):
            moved = [(p, p.grad, m, v, t) for p, m, v, t in every if p.grad is not None and (p.ndim >= 2) == decays]
            if moved:
                parameters, gradients, ms, vs, times = map(list, zip(*moved, strict=True))
                torch._foreach_add_(times, 1)
                torch._fused_adamw_(parameters, gradients, ms, vs, [], times, weight_decay=decay, **how)

    def zero_grad(self) -> None:
        """Forget every gradient."""
        _forget_gradients(self.parameters)

    def state_dict(self) -> dict:
        """All that a resumed run needs."""
        return {"m": self.m, "v": self.v, "t": self.t}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        _copy(self.m + self.v + self.t, state["m"] + state["v"] + state["t"])


class Muon:
    """See the module. Only for matrices (R, C) and stacks of them (E, R, C), each matrix by itself, grouped by R and C."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, weight_decay: float):
        """Raises ValueError for a parameter that is no matrix."""
        self.parameters = list(parameters)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.m = [torch.zeros_like(p) for p in self.parameters]
        for p in self.parameters:
            if p.ndim < 2:
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)}: expected two dimensions at least for Muon; give it to AdamW"
                )

    @torch.no_grad()
    def step(self, fraction: float = 1.0) -> None:
        """One update of every parameter from its .grad, at `fraction` of the peak learning rate; one without a .grad stays as it is."""
        moved = [(p, p.grad, m) for p, m in zip(self.parameters, self.m, strict=True) if p.grad is not None]
        if not moved:
            return
        lr, (parameters, gradients, ms) = self.lr * fraction, map(list, zip(*moved, strict=True))
        torch._foreach_lerp_(ms, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, ms, self.momentum)  # Nesterov: where the momentum is about to be
        torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        groups: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for parameter, towards in zip(parameters, ahead, strict=True):
            groups.setdefault(tuple(parameter.shape[-2:]), []).append((parameter, towards))
        for (rows, columns), members in groups.items():
            stacks = [towards.view(-1, rows, columns) for _, towards in members]
            directions = orthogonal(torch.cat(stacks)).split([len(stack) for stack in stacks])
            mine, step = [parameter for parameter, _ in members], -lr * max(1, rows / columns) ** 0.5
            torch._foreach_add_(mine, [d.view_as(p) for d, p in zip(directions, mine, strict=True)], alpha=step)

    def zero_grad(self) -> None:
        """Forget every gradient."""
        _forget_gradients(self.parameters)

    def state_dict(self) -> dict:
        """All that a resumed run needs."""
        return {"m": self.m}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        _copy(self.m, state["m"])


class Together:
    """Several optimizers, each with parameters of its own, stepped as one."""

    def __init__(self, members: list[AdamW | Muon]):
        self.members = members

    def step(self, fraction: float = 1.0) -> None:
        """Every member's step."""
        for member in self.members:
            member.step(fraction)

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for member in self.members:
            member.zero_grad()

    def state_dict(self) -> dict:
        """All that a resumed run needs."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        for member, saved in zip(self.members, state["members"], strict=True):
            member.load_state_dict(saved)


Optimizer = AdamW | Muon | Together


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer of all that is to be trained: embeddings, the head, routers and recurrent gates always belong to AdamW.

    Raises ValueError where nothing is left for Muon, though the config asks for it.
    """
    c, parameters = config, {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = {
        f"{path}.weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | StackedLinear) and c.kind == "muon"
        if "head" not in path.split(".") and module.weight.requires_grad
    }
    if c.kind == "muon" and not matrices:
        name = type(model).__name__
        raise ValueError(
            f"optim.kind = muon: expected linear layers to train inside of the {name}, found none; use --optim.kind adamw"
        )
    rest = [p for name, p in parameters.items() if name not in matrices]
    members = [Muon(matrices.values(), c.muon_lr, c.momentum, c.weight_decay)] if matrices else []
    members += [AdamW(rest, c.lr, c.beta1, c.beta2, c.eps, c.weight_decay)] if rest or not matrices else []
    return Together(members) if len(members) > 1 else members[0]


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """Nearly the nearest matrices with singular values 1: x (N, R, C) -> (N, R, C), singular values 0.68 ... 1.21.

    The quintic a s + b s^3 + c s^5 has a slope of 3.4 at 0, so that small singular values grow quickly: all that are larger than
    1/500 of x's norm get there, still smaller ones remain smaller. Bfloat16 is exact enough for a direction and twice as
    fast where the processor has it; float64 stays float64.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    y = x if x.dtype == torch.float64 or not _has_bfloat16(x.device) else x.bfloat16()
    y = y.mT if x.shape[1] > x.shape[2] else y
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.mT if x.shape[1] > x.shape[2] else y).to(x.dtype)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster there; a processor without them takes five times as long."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _forget_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _copy(into: list[Tensor], saved: list[Tensor]) -> None:
    for mine, other in zip(into, saved, strict=True):
        mine.copy_(other)

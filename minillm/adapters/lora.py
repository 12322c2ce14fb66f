"""LoRA, low-rank adaptation: a frozen matrix plus a trained correction of low rank (Hu et al. 2021).

    y = W x + (alpha / rank) B A x        A (rank, in), B (out, rank)

B starts at zero, so a fresh adapter changes nothing; A starts at random, so B has a gradient from the first step on.
The update that a task needs is often of low rank, so rank (in + out) trained numbers are enough instead of in * out:
fewer gradients, less optimizer state, and an adapter of some kilobytes for each task. Experts have one correction each.
A correction cannot teach a token whose row was never trained, such as a new special token: `rows` names those. Read
before: `inject`; next: `merge`.
"""

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.inject import MATRICES, Adapted, inject, matching, wrapped
from minillm.adapters.rows import with_trained_rows
from minillm.config.fields import Above, Between, Count, Positive, validate
from minillm.layers.moe import StackedLinear


@dataclass(frozen=True)
class LoRAConfig(Adapter):
    """A LoRA adapter."""

    trains_rows: ClassVar[bool] = True
    kind: Literal["lora"] = "lora"  # kind of adapter
    rank: Positive = 8  # rank of each correction
    alpha: Annotated[float, Above(0)] = 16.0  # strength: corrections are multiplied by alpha / rank
    targets: tuple[str, ...] = ("to_q", "to_v")  # adapted layers, by the end of their path; * and ? allowed
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # dropout of the correction's input
    rows: tuple[Count, ...] = ()  # ids of tokens whose rows in embedding and head are trained too

    def __post_init__(self) -> None:
        validate(self)
        if not self.targets:
            raise ValueError(
                f"adapter.targets = []: expected names of layers beside adapter.kind = {self.kind}, such as "
                "to_q,to_v; name some"
            )

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`."""
        swaps = wrapped(matching(model, self.targets, MATRICES), self.correct)
        inject(model, with_trained_rows(model, self.rows, swaps) if self.rows else swaps)
        return model

    def correct(self, layer: nn.Module) -> Adapted:
        """A layer with its correction."""
        kind = StackedLoRA if isinstance(layer, StackedLinear) else LoRA
        return kind(layer, self.rank, self.alpha, self.dropout)


class LoRA(Adapted):
    """A frozen linear layer and its correction: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        """Factors are drawn on the CPU, so a seed gives the same on all devices. Raises ValueError for a wrong rank."""
        super().__init__(base)
        d_out, d_in = refuse_rank(base.weight, rank)
        self.scale, self.dropout = alpha / rank, nn.Dropout(dropout)
        self.A = nn.Linear(d_in, rank, bias=False).to(base.weight)
        self.B = nn.Linear(rank, d_out, bias=False).to(base.weight)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.B(self.A(self.dropout(x)))

    def merged(self) -> nn.Linear:
        """See `Adapted.merged`. Without dropout; summed in float32 or wider, then rounded once."""
        return corrected(self.base, self.scale, self.A.weight, self.B.weight)


class StackedLoRA(Adapted):
    """The frozen matrices of E experts with a correction each: rows of x (M, in), sorted by expert -> (M, out)."""

    def __init__(self, base: StackedLinear, rank: int, alpha: float, dropout: float = 0.0):
        """As `LoRA`."""
        super().__init__(base)
        n_experts = len(base.weight)
        d_out, d_in = refuse_rank(base.weight, rank)
        self.scale, self.dropout = alpha / rank, nn.Dropout(dropout)
        self.A = StackedLinear(n_experts, d_in, rank).to(base.weight)
        self.B = StackedLinear(n_experts, rank, d_out).to(base.weight)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        return self.base(x, sizes) + self.scale * self.B(self.A(self.dropout(x), sizes), sizes)

    def merged(self) -> StackedLinear:
        """See `LoRA.merged`."""
        return corrected(self.base, self.scale, self.A.weight, self.B.weight)


def refuse_rank(weight: Tensor, rank: int) -> tuple[int, int]:
    """The sizes (out, in) of weight (..., out, in). Raises ValueError for a rank that it cannot have."""
    d_out, d_in = weight.shape[-2:]
    if not 1 <= rank <= min(d_out, d_in):
        raise ValueError(
            f"adapter.rank = {rank}: expected 1 ... {min(d_out, d_in)}, the rank of a target of {d_out} x {d_in}; "
            "lower it, or leave this target out"
        )
    return d_out, d_in


@torch.no_grad()
def corrected(base: nn.Module, scale: float, A: Tensor, B: Tensor) -> nn.Module:
    """A copy of a layer with the weight W + scale B A, for A (..., rank, in) and B (..., out, rank)."""
    layer = base.merged() if isinstance(base, Adapted) else copy.deepcopy(base)
    wide = torch.promote_types(layer.weight.dtype, torch.float32)
    w, a, b = (x.to(wide) for x in (layer.weight, A, B))
    layer.weight.copy_(w + scale * (b @ a))
    return layer

"""DoRA, weight-decomposed low-rank adaptation: LoRA turns each row of a matrix, a magnitude sets its length.

    W' = W + (alpha / rank) B A        y = m W' x / |W'|        m: one number a row, at first |W|      Liu et al. 2024

LoRA changes length and direction of a row together; full training often changes one of them alone, and so can DoRA.
The norm |W'| of each row is treated as a constant in the gradient, as in the paper, which saves memory at no loss of
quality. A fresh adapter changes nothing. Read before: `lora`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from minillm.adapters.inject import Adapted, inject, matching, wrapped
from minillm.adapters.lora import LoRA, LoRAConfig
from minillm.adapters.rows import with_trained_rows


@dataclass(frozen=True)
class DoRAConfig(LoRAConfig):
    """A DoRA adapter; it has the keys of LoRA."""

    kind: Literal["dora"] = "dora"  # kind of adapter

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`. Experts are no targets."""
        swaps = wrapped(matching(model, self.targets), self.correct)
        inject(model, with_trained_rows(model, self.rows, swaps) if self.rows else swaps)
        return model

    def correct(self, layer: nn.Module) -> Adapted:
        """A layer with its correction."""
        return DoRA(layer, self.rank, self.alpha, self.dropout)


class DoRA(LoRA):
    """A frozen linear layer with a correction and a magnitude: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        """As `LoRA`."""
        super().__init__(base, rank, alpha, dropout)
        self.magnitude = nn.Parameter(self.norms())

    @torch.no_grad()
    def norms(self) -> Tensor:
        """The length |W'| of each row, (out,); no gradient flows into it."""
        return torch.linalg.vector_norm(self.base.weight + self.scale * (self.B.weight @ self.A.weight), dim=1)

    @property
    def gains(self) -> Tensor:
        """m / |W'| of each row, (out,); 1 in a fresh adapter. A row of zeros stays zero."""
        norms = self.norms()
        return self.magnitude / norms.where(norms > 0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.base.weight) + self.scale * self.B(self.A(self.dropout(x)))
        y = self.gains * y
        return y if self.base.bias is None else y + self.base.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """See `LoRA.merged`."""
        layer = super().merged()
        layer.weight.mul_(self.gains[:, None])
        return layer

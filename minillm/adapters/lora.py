"""LoRA, low-rank adaptation: a frozen matrix plus a trained correction of low rank (Hu et al. 2021).

    y = W x + (alpha / rank) B A x        A (rank, in), B (out, rank)

B starts at zero, so a fresh adapter changes nothing; A starts at random, so B has a gradient from the first step on.
The update that a task needs is often of low rank, so rank (in + out) trained numbers are enough instead of in * out:
fewer gradients, less optimizer state, and an adapter of some kilobytes for each task. `merge` adds the correction to
the matrix, so it takes no extra time. Merging is always explicit; eval() does not merge. Read before: `inject`.
"""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from minillm.adapters.inject import inject, replace
from minillm.config.fields import Above, Between, Count, validate


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter: a small trained part in a frozen model."""

    rank: Count = 0  # rank of each correction; 0: no adapter, all weights are trained
    alpha: Annotated[float, Above(0)] = 16.0  # strength: corrections are multiplied by alpha / rank
    targets: tuple[str, ...] = ("to_q", "to_v")  # corrected linear layers, by the end of their path; * and ? allowed
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # dropout of the correction's input

    def __post_init__(self) -> None:
        validate(self)
        if self.rank and not self.targets:
            raise ValueError(
                "adapter.targets = []: expected names of linear layers beside adapter.rank, such as to_q,to_v; "
                "name some"
            )


class LoRA(nn.Module):
    """A frozen linear layer and its correction: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        """Factors are drawn on the CPU, so a seed gives the same on all devices. Raises ValueError for a wrong rank."""
        super().__init__()
        if not 1 <= rank <= min(base.weight.shape):
            raise ValueError(
                f"adapter.rank = {rank}: expected 1 ... {min(base.weight.shape)}, the rank of a target of "
                f"{base.out_features} x {base.in_features}; lower it, or leave this target out"
            )
        self.base, self.scale, self.dropout = base, alpha / rank, nn.Dropout(dropout)
        self.A = nn.Linear(base.in_features, rank, bias=False).to(base.weight)
        self.B = nn.Linear(rank, base.out_features, bias=False).to(base.weight)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.B(self.A(self.dropout(x)))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The equivalent frozen linear layer, without dropout; summed in float32 or wider, then rounded once."""
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        w, a, b = (layer.weight.to(wide) for layer in (self.base, self.A, self.B))
        layer = copy.deepcopy(self.base)
        layer.weight.copy_(w + self.scale * (b @ a))
        return layer


def add_lora(model: nn.Module, config: AdapterConfig) -> None:
    """Freeze a model and add a correction to each of `config.targets`. Raises ValueError before any change."""
    if lora_layers(model):
        raise ValueError(
            "the model carries an adapter already: expected one without; merge it first, or load the model again"
        )
    inject(model, config.targets, lambda layer: LoRA(layer, config.rank, config.alpha, config.dropout))


def lora_layers(model: nn.Module) -> dict[str, LoRA]:
    """Path -> LoRA layer, for all of a model."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRA)}


def merge(model: nn.Module) -> dict[nn.Module, LoRA]:
    """Replace every LoRA by its merged layer. Returns the replaced layers, for `unmerge`; {} if there are none.

    The frozen weights are not modified, so unmerging is exact to the last bit; they are freed with the returned
    dictionary. Raises ValueError, before any change, if a weight is also used elsewhere: a head that is tied to the
    embedding would no longer be tied, and a model saved or loaded as a tied one would lose either the correction or the
    embedding.
    """
    layers, modules = lora_layers(model), list(model.named_modules())
    weights = [
        (f"{path}.{name}", module, weight)
        for path, module in modules
        for name, weight in module.named_parameters(recurse=False)
    ]
    for path, layer in layers.items():
        others = [name for name, module, weight in weights if weight is layer.base.weight and module is not layer.base]
        if others:
            raise ValueError(f"{path}: its weight is also {others[0]}: expected one of its own; adapt other targets")
    taken = {layer.merged(): layer for layer in layers.values()}
    replace(model, {layer: merged for merged, layer in taken.items()})
    return taken


def unmerge(model: nn.Module, taken: dict[nn.Module, LoRA]) -> None:
    """Undo `merge`, given its result."""
    replace(model, taken)

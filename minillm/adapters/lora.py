"""LoRA: a frozen matrix and a correction of low rank, which is all that is trained.

    y = W x + (alpha / rank) B A x        A (rank, in), B (out, rank)                             Hu et al. 2021

B starts at zero, so a fresh adapter changes nothing; A starts at random, so that B has a gradient at once. The update that a task needs
turns out to be of low rank, and rank (in + out) numbers replace in * out: no other gradient, no other optimizer state, and an adapter
of some kilobytes beside one base for all. `merge` writes the sum into an ordinary linear layer, which then costs nothing extra; nothing
merges by itself, least of all eval(). Read `inject` before this.
"""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from minillm.adapters.inject import inject, replace
from minillm.config.fields import Above, Between, Count, validate
from minillm.layers.dropout import dropout_layer


@dataclass(frozen=True)
class AdapterConfig:
    """A small trained part in a frozen model (LoRA)."""

    rank: Count = 0  # of the correction that each target gets; 0: no adapter, all weights are trained
    alpha: Annotated[float, Above(0)] = 16.0  # strength: corrections are multiplied by alpha / rank
    targets: tuple[str, ...] = (
        "to_q",
        "to_v",
    )  # linear layers that get one, by the end of their path; * and ? stand for anything
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # of what the correction reads

    def __post_init__(self) -> None:
        validate(self)
        if self.rank and not self.targets:
            raise ValueError(
                "adapter.targets = []: expected names of linear layers beside adapter.rank, such as to_q,to_v; name some"
            )


class LoRA(nn.Module):
    """A linear layer, frozen, and its correction: (..., in) -> (..., out)."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        """Factors are made on the processor and moved, so that a seed gives the same ones on every device. Raises ValueError."""
        super().__init__()
        if not 1 <= rank <= min(base.weight.shape):
            raise ValueError(
                f"adapter.rank = {rank}: expected 1 ... {min(base.weight.shape)}, the rank of a target of "
                f"{base.out_features} x {base.in_features}; lower it, or leave this target out"
            )
        self.base, self.scale, self.dropout = base, alpha / rank, dropout_layer(dropout)
        self.A = nn.Linear(base.in_features, rank, bias=False).to(base.weight)
        self.B = nn.Linear(rank, base.out_features, bias=False).to(base.weight)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.B(self.A(self.dropout(x)))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The ordinary layer that computes the same without dropout: summed in float32 at least, rounded once, frozen."""
        wide = torch.promote_types(self.base.weight.dtype, torch.float32)
        w, a, b = (layer.weight.to(wide) for layer in (self.base, self.A, self.B))
        layer = copy.deepcopy(self.base)
        layer.weight.copy_(w + self.scale * (b @ a))
        return layer


def add_lora(model: nn.Module, config: AdapterConfig) -> None:
    """Freeze a model and give each of `config.targets` a correction. Raises ValueError, and then the model is as it was."""
    if lora_layers(model):
        raise ValueError(
            "the model carries an adapter already: expected one without; merge that one first, or load the model afresh"
        )
    inject(model, config.targets, lambda layer: LoRA(layer, config.rank, config.alpha, config.dropout))


def lora_layers(model: nn.Module) -> dict[str, LoRA]:
    """Path -> layer of all that carry a correction."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRA)}


def merge(model: nn.Module) -> dict[nn.Module, LoRA]:
    """Put the merged layer in the place of every LoRA, and return what `unmerge` needs to put them back; {} where there are none.

    The frozen weights are not written to, so that unmerging is exact to the last bit; they are freed with the returned dictionary.
    Raises ValueError, before anything has changed, where a weight is also used elsewhere: a head that is tied to the embedding would
    stop being tied, and a model that is saved or loaded as a tied one would lose either the correction or the embedding.
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
    """Undo `merge`, given what it returned."""
    replace(model, taken)

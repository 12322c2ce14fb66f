"""Surgery on a finished model: find its linear layers by name, put other modules in their place, freeze the rest.

A layer's path is the way to it, blocks.0.attention.to_q. A target names layers by the end of their path, where * stands for anything
and ? for any character: `to_q` is every to_q, `to_*` all four projections of an attention, `attention.to_q` only those inside one,
`blocks.0.*` (or a whole path) what is in the first block. Only nn.Linear counts: tables of embeddings, norms and the weights of many
experts stacked in one tensor are left alone.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from minillm.config.fields import suggest


def linear_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Path -> layer, in the model's order, for all that the targets name; a layer that stands in several places comes once.

    Raises ValueError for a target that names no linear layer, and for no target at all.
    """
    layers = {
        path: module for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Linear)
    }
    if not targets:
        raise ValueError("targets = (nothing): expected names of linear layers, such as to_q; name some")
    for target in targets:
        if not any(_names(target, path) for path in layers):
            tails = list(dict.fromkeys(path.rpartition(".")[2] for path in layers))
            raise ValueError(
                f"target = {target!r}: expected the name of a linear layer of this model, {suggest(target, tails)}"
            )
    chosen: dict[nn.Linear, str] = {}
    for path, layer in layers.items():
        if any(_names(target, path) for target in targets):
            chosen.setdefault(layer, path)
    return {path: layer for layer, path in chosen.items()}


def _names(target: str, path: str) -> bool:
    return fnmatchcase(path, target) or fnmatchcase(path, f"*.{target}")


def replace(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> None:
    """Put each new module in every place where the old one stands, and in the same mode, training or not."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module in swaps:
            model.set_submodule(path, swaps[module].train(module.training))


def inject(model: nn.Module, targets: Sequence[str], wrap: Callable[[nn.Linear], nn.Module]) -> None:
    """Freeze a model, then put `wrap(layer)` in the place of each layer that the targets name. Raises ValueError, and changes nothing."""
    swaps = {layer: wrap(layer) for layer in linear_layers(model, targets).values()}
    model.requires_grad_(False)
    replace(model, swaps)

"""Replace linear layers of a trained model by other modules, chosen by name, and freeze the rest.

The path of a layer is its name in the model, blocks.0.attention.to_q. A target matches the end of paths; * stands for
any text and ? for any character: `to_q` matches every to_q, `to_*` all four projections of an attention,
`attention.to_q` only those inside an attention, `blocks.0.*` those in the first block, and a whole path one layer. Only
nn.Linear is replaced, not embeddings, norms or stacked weights of experts. Houlsby et al. 2019 introduced adapters.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from minillm.config.fields import suggest


def linear_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Path -> layer, in the model's order, for every layer that a target matches; a shared layer has its first path.

    Raises ValueError for a target that matches no linear layer, and for no targets.
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
    """Put each new module wherever the old one is used, in the same mode (training or not)."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module in swaps:
            model.set_submodule(path, swaps[module].train(module.training))


def inject(model: nn.Module, targets: Sequence[str], wrap: Callable[[nn.Linear], nn.Module]) -> None:
    """Freeze a model, then replace each matching layer by `wrap(layer)`. Raises ValueError before any change."""
    swaps = {layer: wrap(layer) for layer in linear_layers(model, targets).values()}
    model.requires_grad_(False)
    replace(model, swaps)

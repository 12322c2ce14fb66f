"""Replace layers of a trained model by layers with trained parts, chosen by name, and freeze the rest.

The path of a layer is its name in the model, blocks.0.attention.to_q. A target matches the end of paths; * stands for
any text and ? for any character: `to_q` matches every to_q, `to_*` all four projections of an attention,
`attention.to_q` only those inside an attention, `blocks.0.*` those in the first block, and a whole path one layer. All
kinds of adapters enter a model here, so the names of frozen weights only gain `.base`, and whatever is trained can be
saved, and taken out again, by its path. Houlsby et al. 2019 introduced adapters.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import nn

from minillm.config.fields import suggest
from minillm.layers.moe import StackedLinear

LINEAR = (nn.Linear,)
MATRICES = (nn.Linear, StackedLinear)  # stacked: one matrix for each expert


class Adapted(nn.Module):
    """A frozen layer `base` and trained parts; called like the layer alone."""

    keeps_ties: ClassVar[bool] = False  # whether a weight that another layer shares is still shared after merging

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base

    def merged(self) -> nn.Module:
        """An equivalent frozen layer of the base's class. Raises ValueError, with the reason, if there is none."""
        raise NotImplementedError


def matching(model: nn.Module, targets: Sequence[str], kinds: tuple[type, ...] = LINEAR) -> dict[str, nn.Module]:
    """Path -> layer, in the model's order, for every layer that a target matches; a shared layer has its first path.

    Raises ValueError for a target that matches no layer of these kinds, and for no targets.
    """
    layers = {path: module for path, module in model.named_modules(remove_duplicate=False) if isinstance(module, kinds)}
    what = "linear layer" if kinds in (LINEAR, MATRICES) else "layer"
    if not targets:
        raise ValueError(f"targets = (nothing): expected names of {what}s, such as to_q; name some")
    for target in targets:
        if not any(_names(target, path) for path in layers):
            tails = list(dict.fromkeys(path.rpartition(".")[2] for path in layers)) or ["none at all"]
            raise ValueError(
                f"target = {target!r}: expected the name of a {what} of this model, {suggest(target, tails)}"
            )
    chosen: dict[nn.Module, str] = {}
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


def inject(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> None:
    """Freeze a model, then put each new module, which has trained parts, in the place of the old one.

    Whoever makes the new modules raises its errors while the model is still unchanged.
    """
    model.requires_grad_(False)
    replace(model, swaps)


def wrapped(layers: Mapping[str, nn.Module], wrap: Callable[[nn.Module], nn.Module]) -> dict[nn.Module, nn.Module]:
    """Layer -> `wrap(layer)`, for `inject`."""
    return {layer: wrap(layer) for layer in layers.values()}

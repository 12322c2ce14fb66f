"""Merge an adapter into the model: every adapted layer is replaced by one layer that computes the same.

    LoRA   W + (alpha / rank) B A      DoRA   the same, each row scaled      (IA)3   W scaled      BitFit   b + shift

A merged model has no trace of the adapter and costs no extra time. Merging is always explicit; eval() does not merge.
The frozen weights are not modified, so unmerging is exact to the last bit. Adapters that compute what no weight of the
model can (bottlenecks, prefixes, soft prompts) are refused with the reason. Read before: `inject`, `lora`.
"""

from torch import Tensor, nn

from minillm.adapters.inject import Adapted, replace
from minillm.models.language_model import LanguageModel


def adapted_layers(model: nn.Module) -> dict[str, Adapted]:
    """Path -> adapted layer, for all of a model; those inside another one are part of it."""
    found: dict[str, Adapted] = {}
    for path, module in model.named_modules():
        if isinstance(module, Adapted) and not any(path.startswith(f"{outer}.") or not outer for outer in found):
            found[path] = module
    return found


def merge(model: LanguageModel) -> dict[nn.Module, Adapted]:
    """Replace every adapted layer by its merged layer. Returns the replaced layers, for `unmerge`; {} for none.

    The frozen weights are freed with the returned dictionary. Raises ValueError, before any change, for layers that
    cannot be merged, and if a weight is also used elsewhere: a head that is tied to the embedding would no longer be
    tied, and a model saved or loaded as a tied one would lose either the correction or the embedding.
    """
    layers = adapted_layers(model)
    _refuse_shared(model, layers)
    merged = {layer: layer.merged() for layer in layers.values()}
    _tie_again(merged)
    replace(model, merged)
    return {new: layer for layer, new in merged.items()}


def unmerge(model: nn.Module, taken: dict[nn.Module, Adapted]) -> None:
    """Undo `merge`, given its result."""
    replace(model, taken)


def _refuse_shared(model: nn.Module, layers: dict[str, Adapted]) -> None:
    """Raise ValueError for a frozen weight that the merged layer would replace and another layer uses too."""
    users: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            users.setdefault(weight, []).append((f"{path}.{name}", module))
    for path, layer in layers.items():
        if layer.keeps_ties:
            continue
        own = set(layer.base.modules())
        for weight in layer.base.parameters():
            others = [name for name, module in users[weight] if module not in own]
            if others:
                raise ValueError(
                    f"{path}: its weight is also {others[0]}: expected one of its own; adapt other targets"
                )


def _tie_again(merged: dict[Adapted, nn.Module]) -> None:
    """Make the merged layers of a tied embedding and head, which share their change, share a weight again."""
    first: dict[Tensor, nn.Module] = {}
    for layer, new in merged.items():
        if layer.keeps_ties:
            new.weight = first.setdefault(layer.change, new).weight

"""Evaluation mode: a model without dropout, and with less Python around its small products, for as long as somebody writes with it.

A model of a million parameters computes a token in less time than Python needs to call its hundred layers. So meanwhile queries,
keys and values are one product, and what a layer holds is where Python looks first: `nn.Module` keeps weights and parts in
dictionaries of its own, which are asked last, by a function, and more than a hundred times a token. `python -m benchmarks.decode`
measures what comes of it, and benchmarks/NOTES.md says what it was before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from minillm.layers.attention import Attention
from minillm.models.language_model import LanguageModel


@dataclass
class _Use:
    """A module in evaluation mode: by how many, and the mode that it returns to after the last of them."""

    training: bool
    n: int = 0


# subtle: beside the modules and not in them, so that a copy or a pickle of a module has no part in it
_uses: "WeakKeyDictionary[nn.Module, _Use]" = WeakKeyDictionary()


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode for a model. Uses may overlap and end in any order: the last one restores every module."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    for module in modules:
        _enter(module)
    try:
        yield
    finally:
        for module in modules:
            _leave(module)


def _enter(module: nn.Module) -> None:
    _uses.setdefault(module, _Use(module.training)).n += 1
    module.training = False
    if isinstance(module, Attention):
        module.join()
    vars(module).update(_held(module))


def _leave(module: nn.Module) -> None:
    use = _uses[module]
    use.n -= 1
    if use.n:
        return
    del _uses[module]
    for name in _held(module):
        vars(module).pop(name, None)
    if isinstance(module, Attention):
        module.part()
    module.training = use.training


def _held(module: nn.Module) -> dict[str, object]:
    return {
        **module._parameters,
        **module._modules,
    }  # subtle: buffers stay where they are, since a forward may assign them

"""What a model is spared while it only reads and writes: dropout, and what Python does around small products.

A model of a million parameters computes a token in less time than Python needs to call its hundred layers. So meanwhile queries,
keys and values are one product, and what a layer holds is where Python looks first: `nn.Module` keeps weights and parts in
dictionaries of its own, which are asked last, by a function, and more than a hundred times a token. `python -m benchmarks.decode`
measures what comes of it, and benchmarks/NOTES.md says what it was before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from minillm.layers.attention import Attention
from minillm.models.base import LanguageModel


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """In eval mode meanwhile, then every module as it was before."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
        if isinstance(module, Attention):
            module.join()
        vars(module).update(_held(module))
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            for name in _held(module):
                vars(module).pop(name, None)
            if isinstance(module, Attention):
                module.part()
            module.training = was


def _held(module: nn.Module) -> dict[str, object]:
    return {**module._parameters, **module._modules}  # subtle: buffers stay where they are, since a forward may assign them

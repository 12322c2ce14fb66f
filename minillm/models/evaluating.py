"""Evaluation mode as a context manager: no dropout while a model reads or generates.

The contexts of a module are counted. So they may overlap and end in any order, as streams of one model do; the last one
restores the module's former mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from minillm.models.language_model import LanguageModel


@dataclass
class _Use:
    """A module in evaluation mode: the number of contexts that use it, and the mode to restore."""

    training: bool
    n: int = 0


# subtle: stored outside the modules, so that copies and pickles of a module do not contain the count
_uses: "WeakKeyDictionary[nn.Module, _Use]" = WeakKeyDictionary()


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode for a model, until the context ends."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    for module in modules:
        _uses.setdefault(module, _Use(module.training)).n += 1
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            _leave(module)


def _leave(module: nn.Module) -> None:
    use = _uses[module]
    use.n -= 1
    if not use.n:
        del _uses[module]
        module.training = use.training

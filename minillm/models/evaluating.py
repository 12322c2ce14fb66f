"""Evaluation mode: no dropout, for as long as somebody reads or writes with a model.

Uses are counted: contexts may overlap and end in any order, as streams of one model do, and the last one restores every
module's mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

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

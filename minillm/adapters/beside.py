"""Adapted models beside their base: each is a model of its own, and all share the frozen weights in memory.

So several adapters of one base can be served at once (see `engine/engine.py`), for the memory of one model and some
kilobytes for each adapter. Read before: `build_adapter`.
"""

import copy

from torch import nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.build_adapter import add_adapter
from minillm.models.language_model import LanguageModel


def beside(model: nn.Module, adapter: Adapter) -> LanguageModel:
    """A model with a new adapter, whose frozen weights are the tensors of `model` itself; that stays without one.

    The weights of `model` become frozen. Raises ValueError as `add_adapter`.
    """
    shared = [*model.parameters(), *model.buffers()]
    return add_adapter(copy.deepcopy(model, {id(tensor): tensor for tensor in shared}), adapter)

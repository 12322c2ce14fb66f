"""Adapters by name.

    lora, qlora, dora       a correction of low rank beside each matrix
    bottleneck              small networks after attention and feed-forward
    ia3, bitfit             a factor, or a bias, for each output
    prefix, soft_prompt     virtual tokens before every text

Read before: `adapter`, then the file of the adapter that you want to use.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.bitfit import BitFitConfig
from minillm.adapters.bottleneck import BottleneckConfig
from minillm.adapters.dora import DoRAConfig
from minillm.adapters.ia3 import IA3Config
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.merge import adapted_layers
from minillm.adapters.prefix import PrefixConfig
from minillm.adapters.qlora import QLoRAConfig
from minillm.adapters.soft_prompt import SoftPromptConfig
from minillm.config.fields import validate
from minillm.models.language_model import LanguageModel


@dataclass(frozen=True)
class NoAdapter(Adapter):
    """No adapter: all weights are trained."""

    kind: Literal["none"] = "none"  # kind of adapter: small trained parts in a frozen model; none: all is trained

    def __post_init__(self) -> None:
        validate(self)

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`. Changes nothing."""
        return model


AnyAdapter = (
    NoAdapter
    | LoRAConfig
    | QLoRAConfig
    | DoRAConfig
    | BottleneckConfig
    | PrefixConfig
    | SoftPromptConfig
    | IA3Config
    | BitFitConfig
)


def add_adapter(model: nn.Module, adapter: Adapter) -> LanguageModel:
    """Put an adapter into a model; see `Adapter.add`. Raises ValueError, before any change, if the model has one."""
    if adapted_layers(model):
        raise ValueError(
            "the model carries an adapter already: expected one without; merge it first, or load the model again"
        )
    return adapter.add(model)

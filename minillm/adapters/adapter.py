"""The contract of adapters: a kind of adapter is a frozen dataclass whose fields are the keys of [adapter].

An adapter freezes a trained model and adds parts that are trained instead: few gradients, little optimizer state, and a
file of some kilobytes for each task, saved without the base. `add` puts the parts into the model; what comes out is
called, sampled and served like the model alone. A new kind is a new file here and its name in `build_adapter`. Read
before: `inject`; next: `lora`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from minillm.models.language_model import LanguageModel
from minillm.tokenizers.tokenizer import Tokenizer


class Adapter(ABC):
    """One kind of adapter. A subclass is a frozen dataclass."""

    kind: str
    trains_rows: ClassVar[bool] = False  # whether it has `rows`: tokens whose rows in embedding and head it trains

    @property
    def n_virtual(self) -> int:
        """Number of virtual tokens: they take as many places of the context as real ones."""
        return 0

    @abstractmethod
    def add(self, model: nn.Module) -> LanguageModel:
        """Freeze a model and add trained parts, drawn from torch's generator. Returns the adapted model.

        It is the same object, or one that contains it. Raises ValueError, before any change, for a model that the
        adapter does not suit.
        """

    def begin(self, model: nn.Module, tokenizer: Tokenizer) -> None:  # noqa: B027 (most kinds have nothing to do)
        """Set first values of an adapted model that depend on the tokenizer; default: none. Raises ValueError."""

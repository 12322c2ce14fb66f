"""The contract of language models: logits, state = model(tokens, state).

The state of an n-gram model is its last tokens, that of an LSTM its hidden vectors, that of a transformer its keys and
values. So one `generate`, one beam search and one speculative decoder work with all of them. The state is passed in and
returned, never stored in the model.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Rollback = Literal["truncate", "copy", "none"]  # how a state removes its last tokens; see `State.rollback`


class State(Protocol):
    """The state of a model: everything that it keeps of the tokens read."""

    lengths: Tensor  # (B,) long: tokens read by each row
    # "truncate": `truncate` can take back the last 32 tokens of each row. "copy": `copy()` returns a second state,
    # which does not change when this one reads on. "none": neither.
    rollback: Rollback
    context_length: int | None  # maximum number of tokens in a row; None: no limit

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Row i becomes the former row `rows[i]`; the batch may shrink or grow. rows: (B',) long.

        `since`: the first `since` columns read, EMPTY ones included, are equal in row i and row `rows[i]`, so they need
        no copy.
        """
        ...

    def truncate(self, lengths: Tensor) -> None:
        """Keep only the first `lengths` tokens of each row, (B,) long.

        Raises ValueError if that is impossible; `rollback` says what is always possible.
        """
        ...

    def nbytes(self) -> int:
        """Bytes of memory in use."""
        ...


class LanguageModel(Protocol):
    """A model that predicts the next token: n-gram, RNN, LSTM, GRU, decoder, encoder-decoder."""

    vocab_size: int
    # maximum number of tokens in one call, and in a row unless its state has another limit; None: no limit
    context_length: int | None
    start_options: frozenset[str]  # options of `start`: "cache", "source", both or neither
    head: nn.Module | None  # hidden vectors (..., D) -> logits (..., V); None: the model is not a `HiddenModel`

    def start(self, batch_size: int, **how: object) -> State:
        """A state that has read nothing."""
        ...

    def __call__(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Read tokens (B, T) after those in `state`; return logits (B, T, V) and the updated state.

        EMPTY (-1), anywhere in a row, marks padding: it is not read and not counted, and its logits have no meaning.
        Without a state, the model reads the tokens as whole texts and returns None as the state.
        """
        ...


class HiddenModel(LanguageModel, Protocol):
    """A language model with hidden vectors (all but the n-gram model): logits are `head(hidden(tokens))`."""

    head: nn.Module
    embed: Callable[[Tensor], Tensor]  # tokens (B, T), none of them EMPTY -> (B, T, D); an `nn.Embedding` is one

    def hidden(
        self, tokens: Tensor, state: State | None = None, vectors: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """The vectors that the head reads, (B, T) -> (B, T, D), and the state, as in `__call__`.

        `vectors` (B, T, D) replace `embed(tokens)`, for learned or computed prompts. The tokens are still needed: they
        mark padding, and some models use them for other look-ups.
        """
        ...


def device_of(model: LanguageModel) -> torch.device:
    """The device of a model's parameters or buffers; the CPU for a model without any."""
    held = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return held[0].device if held else torch.device("cpu")


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, or of table entries for a model that has counts and no parameters."""
    return sum(p.numel() for p in model.parameters()) or sum(table.numel() for table in model.buffers())


@dataclass
class _Use:
    """A module in evaluation mode: the number of contexts that use it, and the mode to restore."""

    training: bool
    n: int = 0


# subtle: stored outside the modules, so that copies and pickles of a module do not contain the count
_uses: "WeakKeyDictionary[nn.Module, _Use]" = WeakKeyDictionary()


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode for a model, without dropout, until the context ends.

    The contexts of a module are counted. So they may overlap and end in any order, as streams of one model do; the last
    one restores the module's former mode.
    """
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

"""Language models: each is a step with a state.

The state of an n-gram is its last tokens, of an LSTM its hidden vectors, of a transformer its keys and values. One
`generate`, one beam search and one speculative decoder serve them all. The state is handed in and returned, never kept
on the model.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Rollback = Literal["truncate", "copy", "none"]  # how a state goes back to what it was a few tokens ago


class State(Protocol):
    """The memory of a model: all that it keeps of the tokens read."""

    lengths: Tensor  # (B,) long: tokens read by each row
    # "truncate": `truncate` takes back any of the last 32 tokens of each row. "copy": `copy()` is a second state,
    # which stays as it is while this one reads on. "none": neither is promised.
    rollback: Rollback
    context_length: int | None  # most tokens that a row may hold; None is no limit

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Row i becomes what row `rows[i]` was; the batch may shrink or grow. rows: (B',) long.

        `since` promises that the first so many places that were read, EMPTY ones included, hold the same in row i as in
        row `rows[i]`.
        """
        ...

    def truncate(self, lengths: Tensor) -> None:
        """Go back to the first `lengths` tokens of each row, (B,) long.

        Raises ValueError where that is impossible, which `rollback` tells beforehand.
        """
        ...

    def nbytes(self) -> int:
        """Bytes that are really held."""
        ...


class LanguageModel(Protocol):
    """n-gram, RNN, LSTM, GRU, decoder, encoder-decoder: all of them."""

    vocab_size: int
    # most tokens that it reads at once, and that a row holds unless its state says otherwise; None: no limit
    context_length: int | None
    start_options: frozenset[str]  # what `start` takes beside the size: "cache", "source", both or neither
    head: nn.Module | None  # hidden vectors (..., D) -> logits (..., V); None: the model is no `HiddenModel`

    def start(self, batch_size: int, **how: object) -> State:
        """A state that has read nothing."""
        ...

    def __call__(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """Read tokens (B, T) after what `state` remembers; logits (B, T, V) and the state that has read them too.

        An id of EMPTY (-1), anywhere in a row, is a place where no token stands: it is not read, counts for nothing,
        and its logits mean nothing. Without a state the model starts from nothing, remembers nothing, and returns None
        for it.
        """
        ...


class HiddenModel(LanguageModel, Protocol):
    """A language model with a vector for every token, so all but the n-gram: logits are `head(hidden(tokens))`."""

    head: nn.Module
    embed: Callable[[Tensor], Tensor]  # tokens (B, T), none of them EMPTY -> (B, T, D); an `nn.Embedding` is one

    def hidden(
        self, tokens: Tensor, state: State | None = None, vectors: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """The vectors that the head reads, (B, T) -> (B, T, D), and the state, as `__call__`.

        `vectors` (B, T, D) stand in for `embed(tokens)`, so that a prompt may be learned or computed; the tokens still
        say where nothing stands, and serve models that look something else up by them.
        """
        ...


def device_of(model: LanguageModel) -> torch.device:
    """The device of a model's weights or counts; the CPU for a model without either."""
    held = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return held[0].device if held else torch.device("cpu")


def count_parameters(model: nn.Module) -> int:
    """Numbers that a model consists of: its parameters, or the entries of its tables if it counts and has none."""
    return sum(p.numel() for p in model.parameters()) or sum(table.numel() for table in model.buffers())

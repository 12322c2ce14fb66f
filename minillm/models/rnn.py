"""The recurrent language model: tanh RNN, LSTM or GRU, stacked.

    x = embed(token);   x = layer(x, state) for every layer;   logits = head(x)

Mikolov et al. 2010; Zaremba et al. 2014. The state is one or two vectors for each layer, whatever the length of the
text, so a token costs the same after ten tokens as after a million. In return, training must process the text step by
step, and these vectors must summarize the whole past. Read before: `layers/recurrent.py`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from minillm.config.fields import AtLeast, Between, Choice, Count, Positive, validate
from minillm.layers.recurrent import GRU, LSTM, Elman, Recurrent
from minillm.models.language_model import Rollback

CELLS: dict[str, type[Recurrent]] = {"rnn": Elman, "lstm": LSTM, "gru": GRU}


@dataclass(frozen=True)
class RNNConfig:
    """The shape of a recurrent model."""

    kind: Literal["rnn"] = "rnn"  # what the model is
    cell: Annotated[str, Choice(CELLS)] = "lstm"  # kind of layer
    n_layers: Positive = 2  # layers; each reads the output of the layer below
    d_hidden: Positive = 256  # width of each layer's state
    d_embed: Count = 0  # width of the embedding; 0: d_hidden
    context_length: Positive = 128  # tokens of a training row, and reach of gradients; generation has no limit
    tied: bool = True  # share one weight between embedding and head
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # probability, for embeddings and layer outputs, not states
    init_embed: Annotated[float, AtLeast(0)] = 0.1  # standard deviation of initial embeddings and head

    def __post_init__(self) -> None:
        validate(self)
        if self.tied and self.d_embed not in (0, self.d_hidden):
            raise ValueError(
                f"model.d_embed = {self.d_embed}: expected d_hidden = {self.d_hidden} (or 0, which means the same) "
                "for a head that is the embedding; change one, or set tied = false"
            )


class RNNState:
    """The state of a recurrent model: (B, H) for each layer, h alone or (h, c)."""

    context_length = None
    rollback: Rollback = "copy"

    def __init__(self, layers: list[tuple[Tensor, ...]], lengths: Tensor):
        self.layers, self.lengths = layers, lengths

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `State.reorder`."""
        self.lengths = self.lengths[rows]
        self.layers = [tuple(part[rows] for part in layer) for layer in self.layers]

    def truncate(self, lengths: Tensor) -> None:
        """See `State.truncate`. Raises ValueError for any token to take back: a recurrent state cannot remove it."""
        if not torch.equal(lengths, self.lengths):
            raise ValueError(
                f"lengths = {lengths.tolist()}: expected exactly the tokens read, {self.lengths.tolist()}; "
                "a recurrent state sums up all that it has read and cannot take a token back; "
                "read the shorter text from its beginning"
            )

    def copy(self) -> "RNNState":
        """A second state, which does not change when this one reads on. Copies no vectors: none is changed in place."""
        return RNNState(list(self.layers), self.lengths)

    def nbytes(self) -> int:
        """See `State.nbytes`."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    def detach(self) -> None:
        """Detach the state from the graph, so that no gradient flows further back."""
        self.layers = [tuple(part.detach() for part in layer) for layer in self.layers]

    def forget(self, rows: Tensor) -> None:
        """Reset the rows marked in `rows`, (B,) bool, to the state of an empty text."""
        self.lengths = self.lengths.masked_fill(rows, 0)
        self.layers = [tuple(part.masked_fill(rows[:, None], 0.0) for part in layer) for layer in self.layers]


class RNN(nn.Module):
    """A `HiddenModel`: tokens (B, T) -> logits (B, T, V)."""

    start_options: frozenset[str] = frozenset()
    context_length = None  # no limit

    def __init__(self, config: RNNConfig, vocab_size: int):
        super().__init__()
        c = config
        self.config, self.vocab_size = c, vocab_size
        d_embed = c.d_embed or c.d_hidden
        self.embed = nn.Embedding(vocab_size, d_embed)
        self.dropout = nn.Dropout(c.dropout)
        self.layers = nn.ModuleList(CELLS[c.cell](c.d_hidden if i else d_embed, c.d_hidden) for i in range(c.n_layers))
        self.head = nn.Linear(c.d_hidden, vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=c.init_embed)
        nn.init.normal_(self.head.weight, std=c.init_embed)
        if c.tied:
            self.head.weight = self.embed.weight

    def start(self, batch_size: int) -> RNNState:
        """A state that has read nothing: zeros."""
        like, parts = self.embed.weight, range(CELLS[self.config.cell].n_states)
        layers = [tuple(like.new_zeros(batch_size, self.config.d_hidden) for _ in parts) for _ in self.layers]
        return RNNState(layers, torch.zeros(batch_size, dtype=torch.long, device=like.device))

    def forward(self, tokens: Tensor, state: RNNState | None = None) -> tuple[Tensor, RNNState | None]:
        """See `LanguageModel.__call__`."""
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def hidden(
        self, tokens: Tensor, state: RNNState | None = None, vectors: Tensor | None = None
    ) -> tuple[Tensor, RNNState | None]:
        """See `HiddenModel.hidden`; embeddings have width d_embed, hidden vectors d_hidden."""
        if state is not None and len(state.lengths) != len(tokens):
            raise ValueError(
                f"tokens have {len(tokens)} rows: expected {len(state.lengths)}, as many as the state; start another"
            )
        filled = tokens >= 0
        # subtle: padding is moved behind each row's tokens, where it cannot change outputs or the state after them
        order = None if bool(filled.all()) else (~filled).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T)
        tokens = tokens if order is None else tokens.gather(1, order)
        lengths = filled.sum(1)
        before = self.start(len(tokens)).layers if state is None else state.layers
        if vectors is None:
            x = self.embed(tokens.clamp(min=0).T)  # (T, B, D)
        else:
            x = _in_order(vectors, order).transpose(0, 1)
        x, after = self.dropout(x), []
        for layer, layer_before in zip(self.layers, before, strict=True):
            passed = layer(x, layer_before)
            if state is not None:
                after.append(tuple(_state_after(lengths, *parts) for parts in zip(layer_before, passed, strict=True)))
            x = self.dropout(passed[0])
        if state is not None:
            state.layers, state.lengths = after, state.lengths + lengths
        return _in_order(x.transpose(0, 1), None if order is None else order.argsort(1)), state  # (B, T, H)


def _in_order(x: Tensor, order: Tensor | None) -> Tensor:
    """The vectors x (B, T, D) at the places `order` (B, T) of their rows; None: as they are."""
    return x if order is None else x.gather(1, order[..., None].expand_as(x))


class ReadingOn:
    """An `RNN` with a state attached, for an objective that passes no state."""

    def __init__(self, model: RNN, state: RNNState):
        self.model, self.state = model, state

    def __call__(self, tokens: Tensor) -> tuple[Tensor, RNNState | None]:
        return self.model(tokens, self.state)

    def hidden(self, tokens: Tensor) -> tuple[Tensor, RNNState | None]:
        return self.model.hidden(tokens, self.state)


def _state_after(n_steps: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The state of each row after n_steps (B,) steps, (B, H); `after`: the states after each step, (T, B, H)."""
    return torch.cat([before[None], after])[n_steps, torch.arange(len(n_steps), device=n_steps.device)]

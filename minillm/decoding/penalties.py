"""Penalties, biases and bans: transforms that make repeated or listed tokens less probable, or forbid tokens.

These transforms use the history (B, T): all tokens that a row has read, the prompt included; EMPTY is ignored. They
change the model's own logits, before temperature and cuts. Repetition penalty: x / theta for a positive logit of a seen
token, x * theta for a negative one, however often it was seen (CTRL, Keskar et al. 2019). Presence and frequency
penalty: x - a and x - a * count (OpenAI's API, 2020). No repeated n-gram: Paulus et al. 2017. A forbidden token has
probability exactly 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.transforms import BANNED, check, rows_of


@dataclass(frozen=True, repr=False)
class RepetitionPenalty:
    """Divide the positive and multiply the negative logits of seen tokens by theta; above 1 discourages. Source: CTRL.

    >>> RepetitionPenalty(2.0)(torch.tensor([[4.0, -4.0, 4.0]]), torch.tensor([[0, 1, 1]]))
    tensor([[ 2., -8.,  4.]])
    """

    theta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.theta) and self.theta > 0):
            raise ValueError(f"repetition_penalty = {self.theta}: expected a finite number > 0; 1 is off")

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        changed = torch.where(logits > 0, logits / self.theta, logits * self.theta)
        return torch.where(counts(history, logits.shape[1]) > 0, changed, logits)

    def __repr__(self) -> str:
        return f"repetition penalty {self.theta:g}"


@dataclass(frozen=True, repr=False)
class PresencePenalty:
    """Subtract a from the logit of every seen token."""

    a: float

    def __post_init__(self) -> None:
        check("presence_penalty", self.a, -math.inf, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        return logits - self.a * (counts(history, logits.shape[1]) > 0).to(logits.dtype)

    def __repr__(self) -> str:
        return f"presence penalty {self.a:g}"


@dataclass(frozen=True, repr=False)
class FrequencyPenalty:
    """Subtract a from the logit of a token for each time it was seen.

    >>> FrequencyPenalty(0.5)(torch.zeros(1, 3), torch.tensor([[0, 1, 1]]))
    tensor([[-0.5000, -1.0000,  0.0000]])
    """

    a: float

    def __post_init__(self) -> None:
        check("frequency_penalty", self.a, -math.inf, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        return logits - self.a * counts(history, logits.shape[1]).to(logits.dtype)

    def __repr__(self) -> str:
        return f"frequency penalty {self.a:g}"


@dataclass(frozen=True, repr=False)
class LogitBias:
    """Add a number to the logits of some ids; each id stands once in `biases`, pairs of an id and its number.

    >>> LogitBias(((2, -1.5),))(torch.zeros(1, 3), torch.tensor([[0]]))
    tensor([[ 0.0000,  0.0000, -1.5000]])
    """

    biases: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        ids = [i for i, _ in self.biases]
        if len({*ids}) < len(ids) or any(i < 0 for i in ids):
            raise ValueError(f"biases of ids {ids}: expected ids >= 0, each once")
        for _, bias in self.biases:
            check("bias", bias, -math.inf, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        ids, biases = zip(*self.biases, strict=True) if self.biases else ((), ())
        if ids and max(ids) >= logits.shape[1]:
            raise ValueError(f"biases of ids {ids}: expected ids below the {logits.shape[1]} that the model predicts")
        where = torch.tensor(ids, dtype=torch.long, device=logits.device)
        return logits.index_add(1, where, logits.new_tensor(biases).expand(len(logits), -1))

    def __repr__(self) -> str:
        return f"{len(self.biases)} biased"


@dataclass(frozen=True, repr=False)
class NoRepeatNGram:
    """Forbid every token that would repeat an n-gram of the history; n = 1 forbids every seen token.

    >>> NoRepeatNGram(2)(torch.zeros(1, 3), torch.tensor([[0, 1, 2, 0]]))  # 0 1 has been written
    tensor([[0., -inf, 0.]])
    """

    n: int

    def __post_init__(self) -> None:
        check("no_repeat_ngram", self.n, 1, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        if history.shape[1] < self.n:
            return logits
        order = (history != EMPTY).byte().sort(dim=1, stable=True).indices  # tokens to the right, in order
        history = history.gather(1, order)
        ngrams = history.unfold(1, self.n, 1)  # (B, T - n + 1, n)
        beginning = history[:, history.shape[1] - self.n + 1 :]  # (B, n - 1)
        # subtle: if `beginning` has an EMPTY, the text is too short for an n-gram, and an EMPTY token bans nothing
        repeats = (ngrams[..., :-1] == beginning[:, None]).all(-1)
        banned = counts(ngrams[..., -1].masked_fill(~repeats, EMPTY), logits.shape[1]) > 0
        return logits.masked_fill(banned, BANNED)

    def __repr__(self) -> str:
        return f"no repeated {self.n}-gram"


@dataclass(frozen=True, repr=False)
class BannedTokens:
    """Forbid the listed ids."""

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(i < 0 for i in self.ids):
            raise ValueError(f"banned_tokens = {self.ids}: expected ids >= 0")

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        if self.ids and max(self.ids) >= logits.shape[1]:
            raise ValueError(
                f"banned_tokens = {self.ids}: expected ids below the {logits.shape[1]} that the model predicts"
            )
        ids = torch.tensor(self.ids, dtype=torch.long, device=logits.device)
        return logits.index_fill(1, ids, BANNED)

    def __repr__(self) -> str:
        return f"{len(self.ids)} banned"


@dataclass(frozen=True, repr=False)
class OnlyFirst:
    """Forbid ids >= `vocab_size`: a model's output layer may have more entries than its tokenizer."""

    vocab_size: int

    def __post_init__(self) -> None:
        check("vocab_size", self.vocab_size, 1, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        ids = torch.arange(logits.shape[1], device=logits.device)
        return logits.masked_fill(ids >= self.vocab_size, BANNED)

    def __repr__(self) -> str:
        return f"ids below {self.vocab_size}"


@dataclass(frozen=True, repr=False)
class MinNewTokens:
    """Forbid END, and the `stop_ids`, while a row has fewer than n tokens after its prompt.

    `prompt_lengths` has one length for each row of the batch, in order, or one for all rows. So this is the only
    transform that depends on the rows; `for_rows` returns the transform for a reordered batch.
    """

    n: int
    end_id: int
    prompt_lengths: tuple[int, ...]
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check("min_new_tokens", self.n, 0, math.inf)
        check("end_id", self.end_id, 0, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history).clone()
        if len(self.prompt_lengths) not in (1, len(logits)):
            raise ValueError(
                f"{len(self.prompt_lengths)} prompt_lengths: expected one, or {len(logits)}, one for each row; "
                "see for_rows"
            )
        n_new = (history != EMPTY).sum(1) - torch.tensor(self.prompt_lengths, device=history.device)  # (B,)
        ends = [self.end_id, *self.stop_ids]
        logits[:, ends] = logits[:, ends].masked_fill((n_new < self.n)[:, None], BANNED)
        return logits

    def for_rows(self, rows: Sequence[int]) -> "MinNewTokens":
        """The transform for a reordered batch: row i is the former row `rows[i]`."""
        if len(self.prompt_lengths) == 1:
            return self
        return replace(self, prompt_lengths=tuple(self.prompt_lengths[row] for row in rows))

    def __repr__(self) -> str:
        return f"at least {self.n} new"


def counts(history: Tensor, vocab_size: int) -> Tensor:
    """Count how often each row has read each token, (B, V) long; EMPTY is not counted."""
    real = history != EMPTY
    return torch.zeros(len(history), vocab_size, dtype=torch.long, device=history.device).scatter_add(
        1, history * real, real.long()
    )

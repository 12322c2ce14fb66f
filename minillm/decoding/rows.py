"""The rows of a batch: decide after each token whether its text ends, and remove finished texts from the batch.

`generate` and `speculative` write several texts side by side. Row i of every tensor and of every state belongs to the
prompt `numbers[i]`. A text ends at END, at a stop string, at its maximum number of new tokens, or when the context is
full. Then its row is removed from the batch and from all states, so no step computes anything for a finished text. The
engine manages its own rows, and also decides with `judge`.

Texts of different lengths are padded with EMPTY, which no model reads. Prompts are padded on the left, so they all end
in the same column, where the next token is predicted; texts that grow at different rates are padded on the right. Read
before: `sampler`, `stopping`; after: `generate`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.sampler import Sampler
from minillm.decoding.stopping import Stop

Reason = Literal["end", "stop", "length", "context", "cancelled", "failed"]  # the last two only in the engine
Limit = tuple[int, Reason]  # how many tokens a row may add, and the reason for ending there


@dataclass
class Completion:
    """The new tokens of one row, and the reason for its end."""

    tokens: list[int] = field(default_factory=list)  # without END
    # nats of each draw under the untransformed model, END included
    logprobs: list[float] = field(default_factory=list)
    reason: Reason | None = None  # END drawn | a stop string | max_new_tokens | the model's context is full


class Event(NamedTuple):
    """The outcome of one step for one row."""

    row: int  # index of the prompt
    token: int | None  # None: the row ended without a new token, at END or before the first step
    logprob: float | None  # None: nothing was drawn
    reason: Reason | None  # None: the row continues
    top: tuple[tuple[int, float], ...] = ()  # the most probable tokens and their logprobs, if they were asked for


class Memory(Protocol):
    """Anything with data for each row of a batch: a state, a `Reader`, a `Drafting`."""

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]`."""
        ...


def collect(n_rows: int, steps: Iterable[list[Event]]) -> list[Completion]:
    """The completion of each row, from the events of all steps."""
    completions = [Completion() for _ in range(n_rows)]
    for events in steps:
        for row, token, logprob, reason, _ in events:
            if token is not None:
                completions[row].tokens.append(token)
            if logprob is not None:
                completions[row].logprobs.append(logprob)
            completions[row].reason = reason
    return completions


def judge(
    row: int, token: int, logprob: float, end_id: int | None, stop: Stop | None, limit: Limit, n_new: int
) -> Event:
    """The event of a drawn token, the `n_new`-th of its row: decides whether the text ends with it."""
    if token == end_id:
        stopped = stop is not None and stop.finish()
        return Event(row, None, logprob, "stop" if stopped else "end")
    stopped = stop is not None and stop.push(token)
    if not stopped and n_new == limit[0]:
        stopped = stop is not None and stop.finish()
        return Event(row, token, logprob, "stop" if stopped else limit[1])
    return Event(row, token, logprob, "stop" if stopped else None)


class Rows:
    """The rows of a batch whose texts have not ended."""

    def __init__(
        self,
        limits: Sequence[Limit],
        sampler: Sampler,
        generators: Sequence[torch.Generator],
        end_id: int | None,
        stops: Sequence[Stop] | None,
        device: torch.device,
    ):
        """One limit, generator and stop for each prompt. Rows that may add no token stay until the first `retire`."""
        self.limits, self.end_id, self.device = limits, end_id, device
        self.stops = stops or [None] * len(limits)
        self.n_new = [0] * len(limits)  # tokens drawn for each prompt, END included
        self.full = [Event(row, None, None, reason) for row, (n, reason) in enumerate(limits) if n == 0]
        self.ended = {event.row for event in self.full}
        self.numbers = list(range(len(limits)))  # prompts of the rows in the batch; the next two have the same order
        self.generators, self.sampler = list(generators), sampler

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def growing(self) -> bool:
        """Whether any text in the batch has not ended."""
        return any(number not in self.ended for number in self.numbers)

    def room(self, number: int) -> int:
        """Number of tokens that a row may still add."""
        return self.limits[number][0] - self.n_new[number]

    def draw(self, logits: Tensor, history: Tensor) -> Tensor:
        """A token for each row, (B,) long, from logits (B, V) and history (B, T). Raises ValueError as `Sampler`."""
        return self.sampler(logits, history, self.generators)

    def add(self, number: int, token: int, logprob: float) -> Event:
        """Add a drawn token to a row; return its event."""
        self.n_new[number] += 1
        limit, n_new = self.limits[number], self.n_new[number]
        event = judge(number, token, logprob, self.end_id, self.stops[number], limit, n_new)
        if event.reason is not None:
            self.ended.add(number)
        return event

    def add_all(self, drawn: Tensor, logits: Tensor) -> list[Event]:
        """Add one token to each row, (B,), drawn from logits (B, V); return the events."""
        pairs = torch.stack([drawn.double(), logprobs_of(logits, drawn)]).tolist()  # one transfer from the device
        return [
            self.add(number, int(token), logprob) for number, token, logprob in zip(self.numbers, *pairs, strict=True)
        ]

    def retire(self, *memories: Memory | None) -> Tensor | None:
        """Remove the ended rows, also from `memories`; return the others' former indices, None if all stay."""
        going = [i for i, number in enumerate(self.numbers) if number not in self.ended]
        if len(going) == len(self.numbers):
            return None
        kept = torch.tensor(going, dtype=torch.long, device=self.device)
        self.numbers = [self.numbers[i] for i in going]
        self.generators = [self.generators[i] for i in going]
        if going:
            self.sampler = self.sampler.for_rows(going)
            for memory in memories:
                if memory is not None:
                    memory.reorder(kept)
        return kept


def limit_of(context_length: int | None, prompt_length: int, max_new_tokens: int) -> Limit:
    """The number of tokens that a row may add, and the reason for ending there."""
    if context_length is not None and context_length - prompt_length < max_new_tokens:
        return context_length - prompt_length, "context"
    return max_new_tokens, "length"


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """ln p of each token (...) under logits (..., V), in nats: (...) float64."""
    return logits.double().log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def most_probable(logits: Tensor, k: int) -> list[tuple[tuple[int, float], ...]]:
    """The k most probable tokens of each row of logits (B, V), with ln p in nats, the most probable first.

    >>> [[token for token, _ in row] for row in most_probable(torch.tensor([[0.0, 2.0, 1.0]]), k=2)]
    [[1, 2]]
    """
    found = logits.double().log_softmax(-1).topk(min(k, logits.shape[-1]))
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [tuple(zip(tokens, logprobs, strict=True)) for tokens, logprobs in rows]


def pad_right(rows: Sequence[Sequence[int]], room: int = 0) -> Tensor:
    """Rows that begin in the same column, with `room` columns after the longest, (B, width + room).

    >>> pad_right([[5, 6, 7], [8]], room=1)
    tensor([[ 5,  6,  7, -1],
            [ 8, -1, -1, -1]])
    """
    padded = torch.full((len(rows), max(map(len, rows)) + room), EMPTY)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = torch.tensor(row)
    return padded


def pad_left(rows: Sequence[Sequence[int]], room: int = 0) -> tuple[Tensor, int]:
    """Rows that end in the same column, with `room` columns after it, (B, width + room); and that width.

    >>> pad_left([[5, 6, 7], [8]], room=1)[0]
    tensor([[ 5,  6,  7, -1],
            [-1, -1,  8, -1]])
    """
    width = max(map(len, rows))
    padded = torch.full((len(rows), width + room), EMPTY)
    for filled, row in zip(padded, rows, strict=True):
        filled[width - len(row) : width] = torch.tensor(row)
    return padded, width

"""Autoregressive generation: read the prompt, draw a token, read it, draw the next.

One loop serves every language model, because each is a step with a state: logits, state = model(tokens, state). A batch may be
ragged: prompts are padded on the left with EMPTY, which nobody reads, so that all of them end in the same column and the last
logits are everybody's next token. A row that has ended leaves the batch, and state, history and generators close ranks; the
others do not notice. Without the state (`use_cache=False`) everything is read again for every token: O(n^2) reads instead of
O(n), and the same tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.sampler import Sampler
from minillm.decoding.stopping import Stop
from minillm.models.evaluating import evaluating
from minillm.models.language_model import LanguageModel, State, device_of

Reason = Literal["end", "stop", "length", "context", "cancelled", "failed"]  # the last two by the engine alone


@dataclass
class Completion:
    """What one row has written, and why it stopped."""

    tokens: list[int] = field(default_factory=list)  # the new ones, END not among them
    logprobs: list[float] = field(
        default_factory=list
    )  # nats, of each draw under the untransformed model; END's last if drawn
    reason: Reason | None = None  # END drawn | a stop string | max_new_tokens | the model's context is full


class Event(NamedTuple):
    """One row's news."""

    row: int  # of the prompts
    token: int | None  # None where the row ended without a new one: at END, or before it began
    logprob: float | None  # None where nothing was drawn
    reason: Reason | None  # None: the row goes on


def generate(model: LanguageModel, prompts: Sequence[Sequence[int]], sampler: Sampler, **how) -> list[Completion]:
    """The completion of every prompt, in order; parameters and errors as `stream`."""
    return collect(len(prompts), stream(model, prompts, sampler, **how))


def collect(n_rows: int, news: Iterable[list[Event]]) -> list[Completion]:
    """The events of a stream, as what each row has written in the end."""
    completions = [Completion() for _ in range(n_rows)]
    for events in news:
        for row, token, logprob, reason in events:
            if token is not None:
                completions[row].tokens.append(token)
            if logprob is not None:
                completions[row].logprobs.append(logprob)
            completions[row].reason = reason
    return completions


def stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
    end_id: int | None = None,
    stops: Sequence[Stop] | None = None,
    use_cache: bool = True,
    start: Callable[[int], State] | None = None,
) -> Iterator[list[Event]]:
    """Generate, one list of events a step, as the tokens are drawn.

    generators, stops: one a row; their state moves on. end_id: the token that ends a text, if any. start: makes the first
    state of a batch, `model.start` unless given (a choice of cache, the memory of an encoder). A prompt and its completion
    never hold more tokens than the `context_length` of the state, or without one of the model. The model is in eval mode until the
    last event, then as it was.
    Raises ValueError, before anything is read, for prompts that are empty, too long or not of the model's vocabulary.
    """
    check(model, prompts, sampler, max_new_tokens, generators, end_id, stops)
    if start is not None and not use_cache:
        raise ValueError("start: expected none with use_cache=False, which keeps no state; drop one of the two")
    make_state = (start or model.start) if use_cache else None
    return _stream(model, prompts, sampler, max_new_tokens, list(generators), end_id, stops, make_state)


@torch.inference_mode()
def _stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    max_new_tokens: int,
    generators: list[torch.Generator],
    end_id: int | None,
    stops: Sequence[Stop] | None,
    make_state: Callable[[int], State] | None,
) -> Iterator[list[Event]]:
    if not prompts:
        return
    with evaluating(model):
        state, limits = begin(model, prompts, max_new_tokens, make_state)
        at_once, rows = divide(limits)  # rows: those in the batch
        if at_once:
            yield at_once
        if not rows:
            return
        sampler = sampler.for_rows(rows)
        history, width = pad_left(
            [prompts[row] for row in rows], room=max(n for n, _ in limits), device=device_of(model)
        )
        if state is not None and at_once:
            state.reorder(torch.tensor(rows, device=history.device))
        read = 0  # columns of history that the state has read
        for n_new in range(1, history.shape[1] - width + 1):
            logits, state = model(history[:, read:width], state)
            read = width if make_state else 0
            logits = logits[:, -1]  # (B, V)
            drawn = sampler(logits, history[:, :width], [generators[row] for row in rows])
            logprobs = logits.double().log_softmax(-1).gather(1, drawn[:, None]).squeeze(1)
            history[:, width] = drawn
            width += 1
            events = []
            for row, token, logprob in zip(rows, *torch.stack([drawn.double(), logprobs]).tolist(), strict=True):
                events.append(judge(row, int(token), logprob, end_id, stops and stops[row], limits[row], n_new))
            yield events
            going = [i for i, event in enumerate(events) if event.reason is None]
            if not going:
                return
            if len(going) < len(rows):
                kept = torch.tensor(going, device=history.device)
                rows, history, sampler = [rows[i] for i in going], history[kept], sampler.for_rows(going)
                if state is not None:
                    state.reorder(kept)


def judge(
    row: int, token: int, logprob: float, end_id: int | None, stop: Stop | None, limit: tuple[int, Reason], n_new: int
) -> Event:
    """What a drawn token means for its row, which now has `n_new` of them."""
    if token == end_id:
        stopped = stop is not None and stop.finish()
        return Event(row, None, logprob, "stop" if stopped else "end")
    stopped = stop is not None and stop.push(token)
    if not stopped and n_new == limit[0]:
        stopped = stop is not None and stop.finish()
        return Event(row, token, logprob, "stop" if stopped else limit[1])
    return Event(row, token, logprob, "stop" if stopped else None)


def begin(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    make_state: Callable[[int], State] | None,
) -> tuple[State | None, list[tuple[int, Reason]]]:
    """The first state of all the prompts' rows, None where none is kept, and the limit of each row, as `limit_of`.

    subtle: rows that may not add a token have a state too. Whoever makes it, from the sources of an encoder for example, has one for each
    prompt; the state is reordered afterwards to the rows that go on.
    """
    state = make_state(len(prompts)) if make_state else None
    context_length = state.context_length if state is not None else model.context_length
    return state, [limit_of(context_length, len(prompt), max_new_tokens) for prompt in prompts]


def limit_of(context_length: int | None, prompt_length: int, max_new_tokens: int) -> tuple[int, Reason]:
    """How many tokens a row may add, and what stops it there."""
    if context_length is not None and context_length - prompt_length < max_new_tokens:
        return context_length - prompt_length, "context"
    return max_new_tokens, "length"


def divide(limits: Sequence[tuple[int, Reason]]) -> tuple[list[Event], list[int]]:
    """The news of rows that may not add a token, and the numbers of the others."""
    return [Event(row, None, None, why) for row, (n, why) in enumerate(limits) if n == 0], [
        row for row, (n, _) in enumerate(limits) if n
    ]


def pad_right(rows: Sequence[Sequence[int]], room: int = 0) -> Tensor:
    """Rows that begin in the same column, with room behind the longest, (B, width + room)."""
    padded = torch.full((len(rows), max(map(len, rows)) + room), EMPTY)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = torch.tensor(row)
    return padded


def pad_left(prompts: Sequence[Sequence[int]], room: int, device: torch.device) -> tuple[Tensor, int]:
    """Prompts that end in the same column, with room to the right, (B, width + room) long; and that width."""
    width = max(map(len, prompts))
    history = torch.full((len(prompts), width + room), EMPTY)
    for row, prompt in enumerate(prompts):
        history[row, width - len(prompt) : width] = torch.tensor(prompt)
    return history.to(device), width


def check(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None,
    end_id: int | None,
    stops: Sequence[Stop] | None,
) -> None:
    """Raises ValueError for what `stream` refuses."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: expected a number >= 0")
    if sampler.min_new_tokens > max_new_tokens:
        raise ValueError(
            f"min_new_tokens = {sampler.min_new_tokens}: expected at most max_new_tokens = {max_new_tokens}; "
            "lower it, or raise max_new_tokens"
        )
    if end_id is not None and not 0 <= end_id < model.vocab_size:
        raise ValueError(
            f"end_id = {end_id}: expected an id below the model's vocab_size = {model.vocab_size}, or None"
        )
    for name, given in (("generators", generators), ("stops", stops)):
        if given is not None and len(given) != len(prompts):
            raise ValueError(f"{len(given)} {name}: expected one for each of the {len(prompts)} prompts")
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(
                f"prompt {row} = []: expected one token at least; begin with the END token, as documents do"
            )
        if model.context_length is not None and len(prompt) > model.context_length:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens: expected at most context_length = {model.context_length}; keep its last ones"
            )
        if min(prompt) < 0 or max(prompt) >= model.vocab_size:
            raise ValueError(
                f"prompt {row} = {prompt!r}: expected ids below the model's vocab_size = {model.vocab_size}"
            )

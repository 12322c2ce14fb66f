"""Autoregressive generation: read the prompt, draw a token, read it, draw the next.

One loop serves every language model, because each has the same interface: logits, state = model(tokens, state). A batch
may be ragged: prompts are padded on the left with EMPTY, so they all end in the same column, and the last logits
predict the next token of every row. A row that has ended leaves the batch together with its state, history and
generator; the other rows are not affected. Without a state (`use_cache=False`) the model reads the whole text again for
every token: O(n^2) reads instead of O(n), and the same tokens. Read before: `rows`.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.rows import Completion, Event, Limit, Rows, collect, limit_of, pad_left
from minillm.decoding.sampler import Sampler
from minillm.decoding.stopping import Stop
from minillm.models.language_model import LanguageModel, State, device_of, evaluating


def generate(model: LanguageModel, prompts: Sequence[Sequence[int]], sampler: Sampler, **how) -> list[Completion]:
    """The completion of every prompt, in order; parameters and errors as `stream`."""
    return collect(len(prompts), stream(model, prompts, sampler, **how))


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
    """Generate, and yield the list of events of each step as the tokens are drawn.

    generators, stops: one a row, and their state changes. end_id: the token that ends a text, if any. start: makes the
    first state of a batch, for a choice of cache or the memory of an encoder; default: `model.start`. A state that has
    read the beginning of each prompt, but not its last token, reads on from there. A prompt and its completion together
    have at most `context_length` tokens, that of the state or, without a state, of the model. The model is in
    evaluation mode until the last event, then in its former mode.
    Raises ValueError, before anything is read, for prompts that are empty, too long or not of the model's vocabulary.
    """
    check(model, prompts, sampler, max_new_tokens, generators, end_id, stops)
    if start is not None and not use_cache:
        raise ValueError("start: expected none with use_cache=False, which keeps no state; drop one of the two")
    make_state = (start or model.start) if use_cache else None
    return _stream(model, prompts, sampler, max_new_tokens, generators, end_id, stops, make_state)


@torch.inference_mode()
def _stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
    end_id: int | None,
    stops: Sequence[Stop] | None,
    make_state: Callable[[int], State] | None,
) -> Iterator[list[Event]]:
    if not prompts:
        return
    with evaluating(model):
        state, limits = begin(model, prompts, max_new_tokens, make_state)
        rows = Rows(limits, sampler, generators, end_id, stops, device_of(model))
        if rows.full:
            yield rows.full
        rows.retire(state)
        if not rows:
            return
        history, width = pad_left([prompts[number] for number in rows.numbers], room=max(n for n, _ in limits))
        history = history.to(rows.device)
        unread = history[:, :width] if state is None else _unread(history[:, :width], state)
        while rows:
            logits, state = model(unread, state)
            logits = logits[:, -1]  # (B, V)
            drawn = rows.draw(logits, history[:, :width])
            history[:, width] = drawn
            width += 1
            yield rows.add_all(drawn, logits)
            kept = rows.retire(state)
            if kept is not None:
                history = history[kept]
            unread = history[:, width - 1 if make_state else 0 : width]


def _unread(history: Tensor, state: State) -> Tensor:
    """The columns of prompts, padded on the left, that not every row has read; EMPTY where a row has read them."""
    starts = (history < 0).sum(1) + state.lengths  # (B,) columns of the first unread tokens
    first, width = int(starts.min()), history.shape[1]
    if int(starts.max()) >= width:
        raise ValueError("start: expected a state that has not read the last token of its prompt; truncate it")
    columns = torch.arange(first, width, device=history.device)
    return history[:, first:].masked_fill(columns < starts[:, None], EMPTY)


def begin(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    make_state: Callable[[int], State] | None,
) -> tuple[State | None, list[Limit]]:
    """The first state of a batch, or None without `make_state`, and the limit of each row.

    subtle: rows that may not add a token are in the state too, because `make_state` may need one row for each prompt
    (an encoder has one source for each). The caller then reorders the state to the rows that continue.
    """
    state = make_state(len(prompts)) if make_state else None
    context_length = state.context_length if state is not None else model.context_length
    return state, [limit_of(context_length, len(prompt), max_new_tokens) for prompt in prompts]


def check(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None,
    end_id: int | None,
    stops: Sequence[Stop] | None,
) -> None:
    """Raise ValueError for arguments that `stream` does not accept."""
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
                f"prompt {row} = []: expected at least one token; begin with the END token, as documents do"
            )
        if model.context_length is not None and len(prompt) > model.context_length:
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens: expected at most context_length = {model.context_length}; "
                "keep its last ones"
            )
        if min(prompt) < 0 or max(prompt) >= model.vocab_size:
            raise ValueError(
                f"prompt {row} = {prompt!r}: expected ids below the model's vocab_size = {model.vocab_size}"
            )

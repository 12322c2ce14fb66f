"""Settings of the adapter for lm-eval: its own options, and the generation_kwargs of a task. Read after: `lm_eval`."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from minillm.config.fields import Positive, fit, suggest
from minillm.decoding.sampler import SamplingConfig
from minillm.interop.continuations import AT_ONCE

UNLIMITED = sys.maxsize  # max_length of a model without a limit, such as a recurrent one


@dataclass(frozen=True)
class Options:
    """Settings of the adapter, as in `--model_args max_length=128`."""

    batch_size: int | str = 1  # texts in one call of the model; "auto": as many as AT_ONCE allows
    max_batch_size: int | None = None  # most texts in one call if batch_size = "auto"
    max_length: int | None = None  # most tokens that the model reads at once; None: its context, or no limit
    max_gen_toks: int | None = None  # new tokens if a task names no number; None: 256, at most half of max_length
    prefix_token_id: int | None = None  # read before a text without context; None: the opening tokens, or END


class Writing(NamedTuple):
    """The settings of a task for its completions."""

    sampling: SamplingConfig
    stop: tuple[str, ...]
    max_new_tokens: int


def row_limit(options: Options, vocab_size: int) -> Callable[[int], int]:
    """A function from the length of the longest text to the number of texts in one call. Raises ValueError."""
    if options.batch_size == "auto":
        most = fit(UNLIMITED if options.max_batch_size is None else options.max_batch_size, Positive, "max_batch_size")
        return lambda length: max(1, min(most, AT_ONCE // (vocab_size * length)))
    if not str(options.batch_size).isdecimal() or not int(options.batch_size):
        raise ValueError(f"batch_size = {options.batch_size!r}: expected a number >= 1, or auto")
    return lambda length: int(options.batch_size)


def writing_of(given: Mapping[str, Any], max_gen_toks: int, max_length: int) -> Writing:
    """The settings in a task's generation_kwargs; `max_gen_toks` is the default.

    Raises ValueError for an unknown name, and for a value that could have no effect.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = dict(normalize_gen_kwargs(given, max_gen_toks))
    stop, n_tokens = tuple(settings.pop("until")), settings.pop("max_gen_toks")
    if not 1 <= n_tokens < max_length:
        raise ValueError(
            f"max_gen_toks = {n_tokens}: expected 1 or more and less than max_length = {max_length}, so that a part of "
            "the context is read; change it with --gen_kwargs max_gen_toks=..."
        )
    drawn = settings.pop("do_sample")
    settings.setdefault("temperature", 0.0)
    known = [field.name for field in dataclasses.fields(SamplingConfig)]
    for name in settings:
        if name not in known:
            raise ValueError(f"generation_kwargs.{name}: expected {suggest(name, [*known, 'until', 'max_gen_toks'])}")
    if drawn and not settings["temperature"]:
        raise ValueError("do_sample = True: expected a temperature above 0 beside it; give temperature=1")
    return Writing(SamplingConfig(**settings), stop, n_tokens)

"""Sizes that follow from the text: what a config leaves open, and what of it does not fit a text that is small.

A config is made for a corpus, and a text of one's own is often a thousand times smaller. Then most ids of its
vocabulary are hardly ever seen, its windows may be longer than the text, its validation part is a few words, and the
text is read so often that it is learned by heart long before the run ends. Each is decided once, before the first
step, said in a line, and kept in the config of the run, so that --resume finds it. A value that was given by a flag
stays as it is.

Repeated text is worth nearly as much as new text up to 4 passes, and next to nothing after 16 (Muennighoff et al.
2023, "Scaling Data-Constrained Language Models"). To stop once validation gets no better: Prechelt 1998, "Early
Stopping: But When?".
"""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from minillm.runs import wiring
from minillm.runs.config import RunConfig
from minillm.tasks.task import Data, Say
from minillm.tokenizers.tokenizer import Tokenizer

MANY_PASSES = 16  # a text that is read more often is small
HELD_OUT = 0.1  # of a small text
BYTES_PER_ID = 30  # of text: of 264, 400, 700 and 1664 ids, 400 gave the best bits per byte on 11,000 bytes
LEAST_VOCABULARY = 300  # the 256 bytes, END, and something to learn
LEARNED = (
    "bpe",
    "unigram",
    "sentencepiece-bpe",
    "sentencepiece-unigram",
)  # tokenizers that are given the size of their vocabulary
N_WINDOWS = 8  # in a text, at least
LEAST_CONTEXT = 16
LEAST_EVERY = 5  # steps between two validations
LEAST_EVAL_TOKENS = 4096
EVAL_SHARE = 0.06  # tokens validated for each token trained on: forward is a third of a step, so 2 % of its time
PATIENCE = 8  # validations without a new best that a small text is given


def fit(
    config: RunConfig, data: Data, given: Collection[str], tokenizer: Tokenizer | None = None, say: Say = print
) -> tuple[RunConfig, Data]:
    """The config with a validation part, a vocabulary and a context that fit the text, and the data by it.

    `given` names the keys that flags have set, which are left alone; a `tokenizer` that is there already comes with a
    model, and neither is changed.
    """
    given = {*given, *(("tokenizer.vocab_size", "model.context_length") if tokenizer else ())}
    fitted = config
    if config.task.extent(config, data).passes > MANY_PASSES and config.data.val_fraction < HELD_OUT:
        why = "so that enough of a small text is left to choose the best weights on"
        fitted = _changed(fitted, "data.val_fraction", HELD_OUT, why, given, say)
    n_bytes = sum(part.n_bytes for part in (data.train, data.val, data.test) if part is not None)
    vocab_size = max(LEAST_VOCABULARY, n_bytes // BYTES_PER_ID)
    if config.tokenizer.kind in LEARNED and vocab_size < config.tokenizer.vocab_size:
        why = f"since a text of {n_bytes:,} bytes shows no more ids often enough"
        fitted = _changed(fitted, "tokenizer.vocab_size", vocab_size, why, given, say)
    if fitted != config:
        data = wiring.build_data(fitted, tokenizer, lambda remark: None)
    if asked := fitted.task.extent(fitted, data).n_windows:
        n_windows = max(N_WINDOWS, asked)
        context_length = max(LEAST_CONTEXT, (len(data.train.ids) - 1) // n_windows)
        if context_length < config.model.context_length:
            why = f"so that a text of {len(data.train.ids):,} tokens has {n_windows} windows"
            fitted = _changed(fitted, "model.context_length", context_length, why, given, say)
    return fitted, data


def limit_steps(config: RunConfig, data: Data, say: Say = print) -> RunConfig:
    """The config with no more steps than there is data for."""
    n_steps = config.task.extent(config, data).n_steps
    if n_steps is None or config.train.max_steps <= n_steps:
        return config
    say(f"the data lasts for {n_steps} steps, so there are no more")
    return replace(config, train=replace(config.train, max_steps=n_steps))


def set_cadence(config: RunConfig, data: Data) -> RunConfig:
    """The config with `eval_every`, `eval_tokens` and `patience` decided where it leaves them open."""
    t, passes = config.train, config.task.extent(config, data).passes
    once_a_pass = max(LEAST_EVERY, math.ceil(t.max_steps / passes))
    every = t.eval_every or min(t.steps_between_validations(), once_a_pass)
    n_tokens = t.eval_tokens or max(
        LEAST_EVAL_TOKENS, int(EVAL_SHARE * every * t.batch_size * config.model.context_length)
    )
    patience = t.patience if t.patience >= 0 else PATIENCE if passes > MANY_PASSES else 0
    return replace(config, train=replace(t, eval_every=every, eval_tokens=n_tokens, patience=patience))


def reopen(config: RunConfig, given: Collection[str]) -> RunConfig:
    """The config of another run, with its cadence, decided for the text there, open where no flag gives it."""
    opened = {"eval_every": 0, "eval_tokens": 0, "patience": -1}
    return replace(
        config, train=replace(config.train, **{name: x for name, x in opened.items() if f"train.{name}" not in given})
    )


def plan(config: RunConfig, data: Data) -> str:
    """The number of passes and validations in a line, with a warning where the text is small."""
    t, passes, n_val = config.train, config.task.extent(config, data).passes, len(data.val.ids)
    n_tokens = "all" if t.eval_tokens >= n_val else f"about {t.eval_tokens:,} of the"
    said = f"{passes:,.0f}" if passes >= 10 else f"{passes:.1f}"
    lines = [f"{said} passes over the text; validation every {t.eval_every:,} steps, on {n_tokens} {n_val:,} tokens"]
    if passes > MANY_PASSES:
        lines.append(
            f"warning: in {said} passes so small a text is learned by heart, and little is learned that holds for "
            "other text; give more text, or lower --train.max_steps"
        )
    if t.patience:
        waited = f"{t.patience} validations ({t.patience * t.eval_every:,} steps)"
        lines.append(f"training stops early, after {waited} without a new best; --train.patience 0 goes on to the end")
    return "\n".join(lines)


def _changed(config: RunConfig, name: str, value: Any, why: str, given: Collection[str], say: Say) -> RunConfig:
    """The config with another value of a key, which is said, unless a flag has given it."""
    if name in given:
        return config
    section, _, key = name.partition(".")
    before = getattr(config, section)
    say(f"{name} = {value} instead of {getattr(before, key)}, {why}; --{name} sets it")
    return replace(config, **{section: replace(before, **{key: value})})

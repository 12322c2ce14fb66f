"""Sizes that depend on the text: values that a config leaves open, and values that are too large for a small text.

A config is made for one corpus; a user's own text is often a thousand times smaller. With the config's values most ids
of the vocabulary would be very rare, a window might be longer than the text, the validation part would be a few words,
and the model would memorize the text long before the run ends. Each value is decided once, before the first step,
reported in a line, and saved in the config of the run for --resume. A value that is set by a flag does not change.

Repeated text is worth nearly as much as new text up to 4 passes, and next to nothing after 16 (Muennighoff et al. 2023,
"Scaling Data-Constrained Language Models"). Early stopping, when validation no longer improves: Prechelt 1998, "Early
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

MANY_PASSES = 16  # a text counts as small if training makes more passes over it
HELD_OUT = 0.1  # share of a small text for validation
BYTES_PER_ID = 30  # bytes of text; on 11,000 bytes, 400 ids gave better bits per byte than 264, 700 or 1664
LEAST_VOCABULARY = 300  # the 256 bytes, END, and some learned pieces
LEARNED = ("bpe", "unigram", "wordpiece", "sentencepiece-bpe", "sentencepiece-unigram")  # adjustable vocabularies
N_WINDOWS = 8  # least number of windows in a text
LEAST_CONTEXT = 16
LEAST_EVERY = 5  # steps between two validations
LEAST_EVAL_TOKENS = 4096
EVAL_SHARE = 0.06  # validated tokens per trained token: forward is a third of a step, so this takes 2 % of the time
PATIENCE = 8  # for a small text: stop after this many validations without a new best


def fit(
    config: RunConfig, data: Data, given: Collection[str], tokenizer: Tokenizer | None = None, say: Say = print
) -> tuple[RunConfig, Data]:
    """Adapt the validation share, the vocabulary and the context length to the text; return new config and data.

    `given`: keys that are set by flags; they do not change. If there is a `tokenizer` already, it belongs to a trained
    model, so vocabulary and context length do not change.
    """
    given = {*given, *(("tokenizer.vocab_size", "model.context_length") if tokenizer else ())}
    fitted = config
    if config.task.extent(config.of_text, data).passes > MANY_PASSES and config.data.val_fraction < HELD_OUT:
        why = "so that a small text has enough validation text to choose the best weights"
        fitted = _changed(fitted, "data.val_fraction", HELD_OUT, why, given, say)
    n_bytes = sum(part.n_bytes for part in (data.train, data.val, data.test) if part is not None)
    vocab_size = max(LEAST_VOCABULARY, n_bytes // BYTES_PER_ID)
    if config.tokenizer.kind in LEARNED and vocab_size < config.tokenizer.vocab_size:
        why = f"since more ids would be too rare in a text of {n_bytes:,} bytes"
        fitted = _changed(fitted, "tokenizer.vocab_size", vocab_size, why, given, say)
    if fitted != config:
        data = wiring.build_data(fitted, tokenizer, lambda remark: None)
    if asked := fitted.task.extent(fitted.of_text, data).n_windows:
        n_windows = max(N_WINDOWS, asked)
        context_length = max(LEAST_CONTEXT, (len(data.train.ids) - 1) // n_windows)
        if context_length < config.model.context_length:
            why = f"so that a text of {len(data.train.ids):,} tokens has {n_windows} windows"
            fitted = _changed(fitted, "model.context_length", context_length, why, given, say)
    return fitted, data


def train_new_tokens(
    config: RunConfig, known: Tokenizer | None, tokenizer: Tokenizer, given: Collection[str], say: Say = print
) -> RunConfig:
    """Let an adapter train the rows of tokens that its base does not know, unless config or flag say which it trains.

    `known`: the tokenizer of the base.
    """
    new = tuple(range(known.vocab_size, tokenizer.vocab_size)) if known and config.adapts else ()
    if not new or "adapter.rows" in given:
        return config
    told, kind = f"{len(new)} tokens are new to the base", config.adapter.kind
    if not config.adapter.trains_rows:
        say(
            f"{told}, and their rows stay the mean of all others, since adapter.kind = {kind} trains no rows; take lora"
        )
        return config
    if config.adapter.rows:
        return config
    say(f"adapter.rows = {new[0]} ... {new[-1]}, since {told}; --adapter.rows sets it")
    return replace(config, adapter=replace(config.adapter, rows=new))


def limit_steps(config: RunConfig, data: Data, say: Say = print) -> RunConfig:
    """Lower train.max_steps to the number of steps that the data has, if it is limited."""
    n_steps = config.task.extent(config.of_text, data).n_steps
    if n_steps is None or config.train.max_steps <= n_steps:
        return config
    say(f"train.max_steps = {n_steps} instead of {config.train.max_steps}, since the data has no more steps")
    return replace(config, train=replace(config.train, max_steps=n_steps))


def set_cadence(config: RunConfig, data: Data) -> RunConfig:
    """The config with values for `eval_every`, `eval_tokens` and `patience` where it leaves them open."""
    t, passes = config.train, config.task.extent(config.of_text, data).passes
    once_a_pass = max(LEAST_EVERY, math.ceil(t.max_steps / passes))
    every = t.eval_every or min(t.steps_between_validations(), once_a_pass)
    n_tokens = t.eval_tokens or max(
        LEAST_EVAL_TOKENS, int(EVAL_SHARE * every * t.batch_size * config.of_text.model.context_length)
    )
    patience = t.patience if t.patience >= 0 else PATIENCE if passes > MANY_PASSES else 0
    return replace(config, train=replace(t, eval_every=every, eval_tokens=n_tokens, patience=patience))


def reopen(config: RunConfig, given: Collection[str]) -> RunConfig:
    """The config of another run with eval_every, eval_tokens and patience left open again, unless a flag sets them."""
    opened = {"eval_every": 0, "eval_tokens": 0, "patience": -1}
    return replace(
        config, train=replace(config.train, **{name: x for name, x in opened.items() if f"train.{name}" not in given})
    )


def plan(config: RunConfig, data: Data) -> str:
    """The number of passes and validations as a line, with a warning if the text is small."""
    t, passes, n_val = config.train, config.task.extent(config.of_text, data).passes, len(data.val.ids)
    n_tokens = "all" if t.eval_tokens >= n_val else f"about {t.eval_tokens:,} of the"
    n_passes = f"{passes:,.0f}" if passes >= 10 else f"{passes:.1f}"
    lines = [
        f"{n_passes} passes over the text; validation every {t.eval_every:,} steps, on {n_tokens} {n_val:,} tokens"
    ]
    if passes > MANY_PASSES:
        lines.append(
            f"warning: in {n_passes} passes the model memorizes such a small text, and learns little that holds for "
            "other text; give more text, or lower --train.max_steps"
        )
    if t.patience:
        waited = f"{t.patience} validations ({t.patience * t.eval_every:,} steps)"
        lines.append(f"training stops early, after {waited} without a new best; --train.patience 0 turns this off")
    return "\n".join(lines)


def _changed(config: RunConfig, name: str, value: Any, why: str, given: Collection[str], say: Say) -> RunConfig:
    """Set a key of the config and report it, unless a flag sets it."""
    if name in given:
        return config
    section, _, key = name.partition(".")
    before = getattr(config, section)
    say(f"{name} = {value} instead of {getattr(before, key)}, {why}; --{name} sets it")
    return replace(config, **{section: replace(before, **{key: value})})

"""Expectations of a config: a summary, a loss and a time, which hold for the config as it stands in its file.

A flag, or a text that the config does not fit, makes another training of it. Then the figures that were measured no
longer apply, and a summary that tells of stories may be wrong. This module decides, for every key of a config, which
expectations outlive a change. Read `config` before.
"""

from dataclasses import asdict, replace

from minillm.runs.config import RunConfig

HARMLESS = (
    "train.run",
    "train.seed",
    "train.log_every",
    "train.save_every",
    "text.",
    "sampling.",
    "about.",
)  # all stays as measured
TIME = (
    "train.precision",
    "train.compile",
    "train.keep_memory",
    "train.n_micro_batches",
    "train.eval_every",
    "train.eval_tokens",
)
SUBJECT = (
    "task.kind",
    "task.question",
    "data.corpus",
    "model.",
    "adapter.",
)  # what learns, and what it learns; all other keys change loss and time alone


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """The names, "section.key", of all that two configs do not agree about."""
    one, two = (
        {f"{section}.{key}": value for section, keys in asdict(c).items() for key, value in keys.items()}
        for c in (config, other)
    )
    return [
        name for name in dict.fromkeys((*one, *two)) if name not in one or name not in two or one[name] != two[name]
    ]


def as_expected(config: RunConfig, original: RunConfig, fresh: bool = True) -> RunConfig:
    """The config without the expectations that do not hold for it, where they were stated for `original`.

    The figures are those of fresh weights. A run that is not `fresh` starts with the weights of another, whose model
    and tokenizer it has: none applies.
    """
    same = HARMLESS if fresh else (*HARMLESS, "model.", "tokenizer.")
    changed = [name for name in differences(config, original) if not name.startswith(same)]
    about = config.about
    if any(name.startswith(SUBJECT) for name in changed):
        about = replace(about, summary="")
    if not fresh or any(not name.startswith(TIME) for name in changed):
        about = replace(about, expected_loss=0.0)
    if not fresh or changed:
        about = replace(about, expected_seconds=0.0)
    return replace(config, about=about)


def announce(config: RunConfig) -> str:
    """The expectations in a sentence; empty where there are none."""
    about = config.about
    in_time = f" after about {about.expected_seconds:.0f} s on two CPU cores" if about.expected_seconds else ""
    return (
        f"expected, as configured in its file: validation loss {about.expected_loss:.3f}{in_time}"
        if about.expected_loss
        else ""
    )

"""Expected results of a config: its summary, loss and seconds, measured with the config as it is in its file.

If a flag changes a key, or a size is adapted to the text, the measured numbers may no longer apply, and a summary that
mentions stories may be wrong. This module decides for every key which of the expected results remain valid after a
change. Read before: `config`.
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
)  # a change of these keys leaves all expected results valid
TIME = (  # a change of these keys affects the seconds only
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
)  # a change of these keys makes the summary wrong; all other keys affect only loss and seconds


def differences(config: RunConfig, other: RunConfig) -> list[str]:
    """The names, "section.key", of all keys whose values differ between two configs."""
    one, two = (
        {f"{section}.{key}": value for section, keys in asdict(c).items() for key, value in keys.items()}
        for c in (config, other)
    )
    return [
        name for name in dict.fromkeys((*one, *two)) if name not in one or name not in two or one[name] != two[name]
    ]


def as_expected(config: RunConfig, original: RunConfig, fresh: bool = True) -> RunConfig:
    """The config without the expected results that do not apply to it; they were measured with `original`.

    They were measured from random weights, so no expected loss or seconds apply to a run that is not `fresh`. Such a
    run starts from the weights of another run and has that run's model and tokenizer.
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
    """The expected loss and seconds as a sentence; "" if no loss is expected."""
    about = config.about
    in_time = f" after about {about.expected_seconds:.0f} s on two CPU cores" if about.expected_seconds else ""
    return (
        f"expected, with the values of the config's file: validation loss {about.expected_loss:.3f}{in_time}"
        if about.expected_loss
        else ""
    )

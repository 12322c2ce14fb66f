"""Flags of sample.py that would be ignored beside others, or without others: each is refused with a sentence.

Read `sample.py` beside it; `given` holds the flags that were typed, by name, with underscores.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from minillm.decoding.beam import FORBIDDING
from minillm.decoding.sampler import Sampler, SamplingConfig

DRAWING = [field.name for field in dataclasses.fields(SamplingConfig) if field.name not in FORBIDDING]
USELESS = {  # beside the way of writing that is asked for
    "beams": [*DRAWING, "preset", "seed", "num_samples", "stop", "stream", "attention", "draft", "best_of", "explain"],
    "best_of": ["stream", "attention", "draft", "explain"],
    "explain": ["num_samples", "stream", "attention"],
    "draft": ["attention"],
    "attention": ["num_samples", "stream"],
}
NEEDED = {  # for these flags to have an effect
    "draft_tokens": "draft",
    "draft_cost": "draft",
    **dict.fromkeys(("length_penalty", "early_stopping", "num_return"), "beams"),
    **dict.fromkeys(("same_overlap", "same_n"), "best_of"),
    **dict.fromkeys(("attention_layer", "attention_head"), "attention"),
}


def flag(name: str) -> str:
    """The flag as it is typed.

    >>> flag("top_p")
    '--top-p'
    """
    return "--" + name.replace("_", "-")


def refuse_what_would_be_ignored(given: Mapping[str, Any]) -> None:
    """Raise ValueError for flags that have no effect beside others, or without others."""
    for way, useless in USELESS.items():
        for name in useless:
            if way in given and name in given:
                raise ValueError(f"{flag(name)} would be ignored beside {flag(way)}; leave one of the two out")
    if int(given.get("best_of", 0)) and int(given.get("num_samples", 1)) > int(given["best_of"]):
        raise ValueError(
            f"--num-samples {given['num_samples']}: expected at most --best-of {given['best_of']}; "
            "write more or show fewer"
        )
    for name, needed in NEEDED.items():
        if name in given and needed not in given:
            raise ValueError(f"{flag(name)} would be ignored without {flag(needed)}; give both or none")


def refuse_what_greedy_ignores(sampler: Sampler, given: Mapping[str, Any]) -> bool:
    """Whether the most probable token is always taken. Raises ValueError for settings without an effect there."""
    if sampler.decisive is None:
        return False
    step = f"--{sampler.decisive}"  # "--temperature 0", as the flag is typed
    how = f"{step} always takes the most probable token"
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")
    useless = [flag(name) for name in names if name in given and flag(name) != step.split()[0]]
    if useless:
        raise ValueError(f"{useless[0]} would be ignored, since {how}; leave one of the two out")
    for name in ("num_samples", "best_of"):
        if int(given.get(name, 1)) > 1:
            raise ValueError(
                f"{flag(name)} {given[name]} would give the same text each time, since {how}; leave one of the two out"
            )
    return True

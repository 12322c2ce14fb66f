"""Conflicts between flags of sample.py: a flag without effect beside another, or without another, raises ValueError.

`given` holds the flags that the user typed, by name, with underscores. Read with: `sample.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from minillm.decoding.beam import FORBIDDING
from minillm.decoding.sampler import Sampler, SamplingConfig

DRAWING = [field.name for field in dataclasses.fields(SamplingConfig) if field.name not in FORBIDDING]
USELESS = {  # flag -> flags that have no effect beside it
    "beams": [*DRAWING, "preset", "seed", "num_samples", "stop", "stream", "attention", "draft", "best_of", "explain"],
    "best_of": ["stream", "attention", "draft", "explain"],
    "explain": ["num_samples", "stream", "attention"],
    "draft": ["attention"],
    "attention": ["num_samples", "stream"],
    "chat": ["prompt", "attention", "check"],
}
NEEDED = {  # flag -> the flag without which it has no effect
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
    """Raise ValueError for a flag that has no effect beside the others, or without another."""
    for way, useless in USELESS.items():
        for name in useless:
            if way in given and name in given:
                raise ValueError(f"{flag(name)} would be ignored beside {flag(way)}; leave one of the two out")
    if int(given.get("best_of", 0)) and int(given.get("num_samples", 1)) > int(given["best_of"]):
        raise ValueError(
            f"--num-samples {given['num_samples']}: expected at most --best-of {given['best_of']}; "
            "raise --best-of or lower --num-samples"
        )
    for name, needed in NEEDED.items():
        if name in given and needed not in given:
            raise ValueError(f"{flag(name)} would be ignored without {flag(needed)}; give both or none")


def refuse_what_greedy_ignores(sampler: Sampler, given: Mapping[str, Any]) -> bool:
    """Whether decoding is greedy. If it is, raise ValueError for settings that have no effect then."""
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

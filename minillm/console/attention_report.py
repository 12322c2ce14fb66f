"""Attention weights for people: what each token looked at, as a table, and as a picture in the folder of the run.

Read `decoding/attention_map.py` before.
"""

from typing import NamedTuple

from minillm.decoding.attention_map import (
    AttentionMap,
    attends,
    check_choice,
    save_heat_maps,
    strongest,
    table,
)
from minillm.runs.folder import OpenRun
from minillm.text.translator import Translator


class AttentionChoice(NamedTuple):
    """Which weights to show."""

    layer: int  # from 1; 0: the last in print, all of them in the picture
    head: int  # from 1; 0: the mean


def refuse_attention(opened: OpenRun, asked: AttentionChoice) -> None:
    """Raise ValueError for a run without attention, and for a layer or a head that it does not have."""
    model = opened.config.model
    if not attends(opened.text.model):
        raise ValueError(
            f"--attention: expected a model with attention, and {opened.path} is of model.kind = {model.kind}; "
            "leave it out, or train one with train.py --config gpt-tiny"
        )
    check_choice(*asked, model.n_layers, model.n_heads)


def print_attention(opened: OpenRun, found: AttentionMap, asked: AttentionChoice) -> None:
    """Print one layer's attention, and save a picture of it, or of every layer where none was asked for, in the run's folder."""
    weights, described = found.choose(*asked)
    if isinstance(opened.text, Translator):
        print(f"\nwhere each word was looked for in the source ({described}):\n")
        print(table(found.rows, found.columns, weights[-1]))
    else:
        print(f"\nwhat each token looked at most ({described}):\n")
        print(strongest(found.rows, found.columns, weights[-1]))
    path = opened.path / "attention.png"
    if save_heat_maps(found.rows, found.columns, weights, path, first=asked.layer or 1):
        print(f"\n{'it' if asked.layer else 'every layer'} is drawn in {path}")

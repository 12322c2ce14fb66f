"""Report of attention weights: which tokens each token attends to, as a table, and as a picture in the run's folder.

Read before: `decoding/attention_map.py`.
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
    """The layer and the head whose weights are shown."""

    layer: int  # from 1; 0: the last one in the table, all of them in the picture
    head: int  # from 1; 0: the mean over heads


def refuse_attention(opened: OpenRun, asked: AttentionChoice) -> None:
    """Raise ValueError for a model without attention, and for a layer or head that it does not have."""
    model = opened.config.model
    if not attends(opened.text.model):
        raise ValueError(
            f"--attention: expected a model with attention, and {opened.path} is of model.kind = {model.kind}; "
            "leave it out, or train one with train.py --config gpt-tiny"
        )
    check_choice(*asked, model.n_layers, model.n_heads)


def print_attention(opened: OpenRun, found: AttentionMap, asked: AttentionChoice) -> None:
    """Print the attention of one layer; save a picture of it, or of all layers if none is chosen, in the run folder."""
    weights, described = found.choose(*asked)
    if isinstance(opened.text, Translator):
        print(f"\nattention of each target token over the source ({described}):\n")
        print(table(found.rows, found.columns, weights[-1]))
    else:
        print(f"\nthe tokens that each token attends to most ({described}):\n")
        print(strongest(found.rows, found.columns, weights[-1]))
    path = opened.path / "attention.png"
    if save_heat_maps(found.rows, found.columns, weights, path, first=asked.layer or 1):
        print(f"\npicture of {'this layer' if asked.layer else 'every layer'} in {path}")

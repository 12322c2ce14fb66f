"""Linear layers are found by name and replaced by other modules."""

import pytest
import torch
from torch import nn

from minillm.adapters.inject import inject, matching, replace, wrapped
from tests.tiny import SHAPES, decoder, tokens


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["to_q"], ["blocks.0.attention.to_q", "blocks.1.attention.to_q"]),
        (["attention.to_q", "to_q"], ["blocks.0.attention.to_q", "blocks.1.attention.to_q"]),
        (["blocks.1.attention.to_?"], [f"blocks.1.attention.to_{x}" for x in "qkv"]),
        (["blocks.0.*"], [f"blocks.0.attention.to_{x}" for x in ("q", "k", "v", "out")]
            + ["blocks.0.feedforward.up", "blocks.0.feedforward.down"]),
        (["head"], ["head"]),
        (["down", "head"], ["blocks.0.feedforward.down", "blocks.1.feedforward.down", "head"]),
    ],
)  # fmt: skip
def test_a_target_names_layers_by_the_end_of_their_path(targets, expected):
    assert list(matching(decoder(), targets)) == expected


def test_a_star_is_every_linear_layer_and_nothing_else():
    model = decoder(**SHAPES["value embeddings"])
    assert set(matching(model, ["*"]).values()) == {m for m in model.modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["to_q", "to_p"], r"target = 'to_p': expected the name of a linear layer .* did you mean .*to_q"),
        (["embed"], r"target = 'embed': expected the name of a linear layer .*to_q"),
        (["o_q"], r"target = 'o_q'"),
        ([""], r"target = ''"),
        ([], r"targets = \(nothing\): expected names of linear layers"),
    ],
)
def test_a_target_that_names_no_linear_layer_is_refused_and_nothing_has_changed(targets, sentence):
    model = decoder()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=sentence):
        inject(model, wrapped(matching(model, targets), nn.Sequential))
    assert list(model.named_modules()) == before and all(p.requires_grad for p in model.parameters())


def test_a_layer_that_stands_in_several_places_is_wrapped_once_and_in_all_of_them():
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(3, 5)})
    model["c"] = model["a"]
    inject(model, wrapped(matching(model, ["c", "a"]), nn.Sequential))
    assert model["a"] is model["c"] and isinstance(model["a"], nn.Sequential) and isinstance(model["b"], nn.Linear)


def test_what_is_put_in_has_the_mode_of_what_it_replaces():
    model = decoder().eval()
    inject(model, wrapped(matching(model, ["to_q"]), lambda layer: nn.Sequential(layer, nn.Dropout(0.5))))
    assert not any(module.training for module in model.modules())
    replace(model, {module: nn.Dropout() for module in model.modules() if isinstance(module, nn.Dropout)})
    assert not any(module.training for module in model.modules())


def test_wrapping_into_itself_changes_nothing_but_freezes():
    model, t = decoder(), tokens(2, 5)
    before = model(t)[0]
    inject(model, wrapped(matching(model, ["*"]), lambda layer: layer))
    assert torch.equal(model(t)[0], before) and not any(p.requires_grad for p in model.parameters())

"""Attention maps equal the weights that the layers used, for every model with attention."""

import pytest
import torch
from einops import rearrange, repeat

from minillm.decoding.attention_map import AttentionMap, attends, save_heat_maps, self_attention, strongest
from minillm.layers.attention import Attention
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from tests import tiny
from tests.models.test_encoder import encoder


@pytest.mark.parametrize("name", [*tiny.SHAPES, "encoder"])
def test_the_weights_give_the_output_of_each_layer(name):
    model = encoder(n_layers=2).double().eval() if name == "encoder" else tiny.decoder(**tiny.SHAPES[name])
    layers, seen = [module for module in model.modules() if isinstance(module, Attention)], []
    for layer in layers:
        layer.register_forward_hook(lambda layer, args, out: seen.append((layer, args, out)))
    tokens = tiny.tokens(3, 11) % 22
    weights = self_attention(model, tokens)
    assert weights.shape == (len(layers), 3, layers[0].n_heads, 11, 11) and len(seen) == len(layers)
    if name == "gpt-oss":  # the sinks take a share
        assert bool((weights.sum(-1) < 1).all())
    else:
        tiny.assert_equal(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    for w, (layer, args, out) in zip(weights, seen, strict=True):
        values = args[3] if len(args) > 3 else None
        v = layer.to_v(args[0]) + (0 if values is None else values)
        v = repeat(v, "B T (G K) -> B (G h) T K", G=layer.n_kv_heads, h=layer.n_heads // layer.n_kv_heads)
        tiny.assert_equal(layer.to_out(rearrange(w @ v, "B H T K -> B T (H K)")), out)
    watched, seen[:] = list(seen), []
    with torch.no_grad():  # no hook is left, and recording has changed no output
        model(tokens)
    for (_, _, one), (_, _, other) in zip(watched, seen, strict=True):
        tiny.assert_equal(one, other)
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_only_models_with_attention_attend():
    assert attends(tiny.decoder()) and attends(encoder())
    assert not attends(RNN(RNNConfig(d_hidden=5), 7)) and not attends(Ngram(NgramConfig(), 7))


def test_a_layer_and_a_head_count_from_1_and_0_is_the_mean_over_heads_of_every_layer():
    weights = torch.rand(3, 5, 2, 7)
    found = AttentionMap(["a", "b"], list("cdefghi"), weights)
    for layer in range(4):
        for head in range(6):
            chosen, said = found.choose(layer, head)
            of_head = weights[:, head - 1] if head else sum(weights[:, i] for i in range(5)) / 5
            torch.testing.assert_close(chosen, of_head[[layer - 1]] if layer else of_head)
            assert said == f"layer {layer or 3} of 3, {f'head {head} of 5' if head else 'mean over 5 heads'}"
    for layer, head, sentence in (
        (4, 0, "attention layer = 4: expected at most 3"),
        (0, 6, "attention head = 6: expected at most 5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            found.choose(layer, head)


def test_the_strongest_of_a_row_come_with_their_places_the_largest_first():
    weights = torch.tensor([[0.125, 0.625, 0.25], [0.0, 1.0, 0.0]])
    lines = strongest(["I", "am"], ["je", "suis", "END"], weights, 2).splitlines()
    assert [line.split() for line in lines] == [
        ["0", "I", "0.62", "suis", "[1]", "0.25", "END", "[2]"],
        ["1", "am", "1.00", "suis", "[1]"],
    ]


@pytest.mark.slow
def test_a_picture_of_a_long_text_is_no_larger_than_a_screen_can_show(tmp_path):
    pytest.importorskip("matplotlib")
    for n in (2, 150):
        assert save_heat_maps(["a"] * n, ["b"] * n, torch.rand(2, n, n), tmp_path / f"{n}.png", first=2)
        header = (tmp_path / f"{n}.png").read_bytes()[16:24]
        width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
        assert 50 < width < 6000 and 50 < height < 4000

"""Rotary positions by hand: one look-up for all layers, repeated when positions have changed."""

from functools import partial

import pytest
import torch

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.paged import PagedCache
from minillm.constants import EMPTY
from minillm.layers.positions import Rotary
from minillm.speed.accelerate import accelerate
from minillm.speed.rotary_turns import FastRotary
from tests.tiny import assert_equal, decoder, tokens


def test_what_was_looked_up_last_serves_the_same_positions_only():
    rotate, x = FastRotary(Rotary(6, 20)), torch.randn(2, 3, 2, 6, dtype=torch.float64)
    one, other = torch.tensor([[3, 4]]), torch.tensor([[7, 2]])
    fresh = [Rotary(6, 20)(x, positions) for positions in (one, other)]
    for _ in range(2):
        assert_equal(rotate(x, one), fresh[0])
        assert_equal(rotate(x, other), fresh[1])
        with torch.inference_mode():
            rotate(x, one)
        rotate(x.clone().requires_grad_(), one).sum().backward()
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(rotate(x.to(dtype), other), FastRotary(Rotary(6, 20))(x.to(dtype), other))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(
    "change", [lambda p: p.add_(3), lambda p: p.fill_(0), lambda p: p[:, 1:].neg_(), lambda p: p[0].copy_(p[1])]
)
def test_positions_that_are_changed_in_place_get_new_angles(mode, change):
    x = torch.randn(2, 3, 2, 6, dtype=torch.float64)
    outside = torch.tensor([[3, 4], [7, 2]])
    with mode():
        for positions in (outside, outside.clone()):
            rotate = FastRotary(Rotary(6, 20))
            before = rotate(x, positions)
            change(positions)
            assert_equal(rotate(x, positions), Rotary(6, 20)(x, positions.clone()))
            assert not torch.equal(rotate(x, positions), before)


@pytest.mark.parametrize("cache", [ContiguousCache, partial(PagedCache, 9, 3)])
def test_the_layers_of_a_model_look_angles_up_once_a_read(cache, monkeypatch):
    looked_up, model = [], accelerate(decoder(n_layers=3))
    plain = model.blocks[0].attention.rotate.plain
    monkeypatch.setattr(plain, "tables", lambda *what: looked_up.append(what) or Rotary.tables(plain, *what))
    with torch.inference_mode():
        state = model.start(2, cache=cache)
        for chunk in (tokens(2, 5), tokens(2, 3).masked_fill(tokens(2, 3) > 11, EMPTY), tokens(2, 1)):
            looked_up.clear()
            model(chunk, state)
            assert len(looked_up) == 1

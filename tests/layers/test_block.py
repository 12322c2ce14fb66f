"""Blocks against those of the lesson and against torch's encoder layer, with the same weights."""

from functools import partial

import pytest
import torch
from torch import nn

from minillm.cache.kv_cache import NO_CACHE, Positions
from minillm.constants import EMPTY
from minillm.layers.attention import Attention
from minillm.layers.block import PostNormBlock, PreNormBlock
from minillm.layers.feedforward import ACTIVATIONS, MLP
from minillm.layers.norm import LayerNorm
from minillm.lessons import transformer_block as lesson
from tests.tiny import assert_equal, assert_equal_with_gradients

D, H, F = 15, 3, 29


@pytest.mark.parametrize(
    ("kind", "theirs"), [(PreNormBlock, lesson.PreNormBlock), (PostNormBlock, lesson.PostNormBlock)]
)
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_is_that_of_the_lesson_in_values_and_gradients(kind, theirs, causal):
    torch.manual_seed(0)
    attention = Attention(D, H, H, D // H, bias=True, causal=causal)
    block = kind(attention, MLP(D, F, ACTIVATIONS["gelu"], bias=True), partial(LayerNorm, D)).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    theirs = theirs(D, H, F).double()
    theirs.load_state_dict(block.state_dict())
    x = torch.randn(4, 7, D, dtype=torch.float64)
    outs = block(x, Positions(torch.arange(7)[None], True), NO_CACHE), theirs(x, causal)
    assert_equal_with_gradients(outs, block, theirs)


@pytest.mark.parametrize(("kind", "norm_first"), [(PostNormBlock, False), (PreNormBlock, True)])
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_is_torchs_encoder_layer(kind, norm_first, causal):
    torch.manual_seed(0)
    attention = Attention(D, H, H, D // H, bias=True, causal=causal)
    block = kind(attention, MLP(D, F, ACTIVATIONS["relu"], bias=True), partial(LayerNorm, D)).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    theirs = nn.TransformerEncoderLayer(D, H, F, dropout=0.0, batch_first=True, norm_first=norm_first).double()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat(
                [part.weight for part in (attention.to_q, attention.to_k, attention.to_v)]
            ),
            "self_attn.in_proj_bias": torch.cat(
                [part.bias for part in (attention.to_q, attention.to_k, attention.to_v)]
            ),
            "self_attn.out_proj.weight": attention.to_out.weight,
            "self_attn.out_proj.bias": attention.to_out.bias,
            "linear1.weight": block.feedforward.up.weight,
            "linear1.bias": block.feedforward.up.bias,
            "linear2.weight": block.feedforward.down.weight,
            "linear2.bias": block.feedforward.down.bias,
            **{f"norm{i}.{name}": p for i in (1, 2) for name, p in getattr(block, f"norm_{i}").named_parameters()},
        }
    )
    x, positions = torch.randn(4, 7, D, dtype=torch.float64), torch.arange(7).repeat(4, 1)
    positions[1, 5:] = EMPTY
    future = torch.ones(7, 7).triu(1).bool() if causal else None
    expected = theirs(x, src_mask=future, src_key_padding_mask=positions == EMPTY)
    out = block(x, Positions(positions, False), NO_CACHE)
    assert_equal(out[positions >= 0], expected[positions >= 0])


def test_in_a_pre_norm_block_sublayers_that_say_nothing_leave_the_stream_alone():
    block = PreNormBlock(Attention(D, H, H, 5), MLP(D, F, ACTIVATIONS["relu"]), partial(LayerNorm, D))
    nn.init.zeros_(block.attention.to_out.weight)
    nn.init.zeros_(block.feedforward.down.weight)
    x = torch.randn(2, 7, D)
    assert torch.equal(block(x, Positions(torch.arange(7)[None], True), NO_CACHE), x)

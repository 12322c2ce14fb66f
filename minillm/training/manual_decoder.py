"""Backpropagation through a decoder by hand: the next-token loss of `models/decoder.py` and all its derivatives.

    forward    x = embed(token) + position;   x = block(x) for every block;   logits = head(norm(x));   loss
    backward   the same steps in reverse order; for each, a function of `backprop` turns dy into dx

The residual stream is what makes deep models trainable: in x + f(x) the derivative dy reaches x unchanged, in addition
to the part that comes through f. Read `python -m minillm.backprop` and `minillm/backprop/` before this.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from minillm.backprop.attention import attend, attend_backward, rotate, rotate_backward
from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.embedding import embedding, embedding_backward
from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.layers.attention import Attention
from minillm.layers.block import PostNormBlock, PreNormBlock
from minillm.layers.masks import visible
from minillm.layers.ngram_embedding import NoNgramEmbedding
from minillm.layers.positions import LearnedPositions, NoPositions, Rotary, SinusoidalPositions
from minillm.layers.value_embedding import NoValueEmbedding, ValueEmbedding
from minillm.models.decoder import Decoder
from minillm.objectives.loss import Loss
from minillm.training.manual_modules import add, backward, forward, refuse_unknown

KNOWN = (
    Decoder,
    Attention,
    PreNormBlock,
    PostNormBlock,
    LearnedPositions,
    SinusoidalPositions,
    NoPositions,
    ValueEmbedding,
)
KNOWN += (NoValueEmbedding, NoNgramEmbedding, nn.Embedding, nn.Dropout, nn.Identity, nn.ModuleList)
POSITIONS = ("rotary", "learned", "sinusoidal", "none")


class ManualDecoder:
    """Forward and backward of `next_token` for a decoder."""

    def __init__(self, model: Decoder):
        """Raises ValueError for a model with a part that has no hand-written derivative."""
        refuse_unknown(model, KNOWN)
        if model.config.positions not in POSITIONS:
            raise ValueError(
                f"model.positions = {model.config.positions}: expected {', '.join(POSITIONS)} "
                "beside task.backward = manual"
            )
        self.model = model

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Loss:
        """Return the summed loss, and add its derivatives to each .grad, as `loss.total.backward()` would."""
        model, filled, ids = self.model, batch.tokens >= 0, batch.tokens.clamp(min=0)
        positions = (filled.cumsum(1) - 1).masked_fill(~filled, EMPTY)  # (B, T)

        x, kept_embed = embedding(ids, model.embed.weight)  # (B, T, D)
        x = x + model.embed_positions(positions)
        values, values_backward = _value_embeddings(model.embed_values, ids)
        kept_blocks = []
        for block, extra in zip(model.blocks, values, strict=True):
            x, kept_block = BLOCKS[type(block)][0](block, x, extra, positions)
            kept_blocks.append(kept_block)
        x, kept_norm = forward(model.norm, x)
        logits, kept_head = forward(model.head, x)
        total, kept_loss = cross_entropy(logits, batch.targets, IGNORE)

        dlogits = cross_entropy_backward(1.0, kept_loss)
        dx = backward(model.head, dlogits, kept_head)
        dx = backward(model.norm, dx, kept_norm)
        dvalues = []
        for block, kept_block in zip(reversed(model.blocks), reversed(kept_blocks), strict=True):
            dx, dextra = BLOCKS[type(block)][1](block, dx, kept_block)
            dvalues.append(dextra)
        values_backward(dvalues[::-1])
        if isinstance(model.embed_positions, LearnedPositions):
            table = model.embed_positions.table.weight
            add(table, embedding_backward(dx, (positions.clamp(min=0), len(table))))
        add(model.embed.weight, embedding_backward(dx, kept_embed))
        return Loss(total, (batch.targets != IGNORE).sum())


def pre_norm(block: PreNormBlock, x: Tensor, values: Tensor | None, positions: Tensor) -> tuple[Tensor, tuple]:
    """x (B, T, D) -> (B, T, D), kept."""
    y, kept_1 = forward(block.norm_1, x)
    y, kept_attention = attention(block.attention, y, values, positions)
    x = x + y
    y, kept_2 = forward(block.norm_2, x)
    y, kept_feedforward = forward(block.feedforward, y)
    return x + y, (kept_1, kept_attention, kept_2, kept_feedforward)


def pre_norm_backward(block: PreNormBlock, dx: Tensor, kept: tuple) -> tuple[Tensor, Tensor]:
    """dx above the block (B, T, D) -> dx below it, dvalues (B, T, G K)."""
    kept_1, kept_attention, kept_2, kept_feedforward = kept
    dy = backward(block.feedforward, dx, kept_feedforward)
    dx = dx + backward(block.norm_2, dy, kept_2)
    dy, dvalues = attention_backward(block.attention, dx, kept_attention)
    return dx + backward(block.norm_1, dy, kept_1), dvalues


def post_norm(block: PostNormBlock, x: Tensor, values: Tensor | None, positions: Tensor) -> tuple[Tensor, tuple]:
    """x (B, T, D) -> (B, T, D), kept."""
    y, kept_attention = attention(block.attention, x, values, positions)
    x, kept_1 = forward(block.norm_1, x + y)
    y, kept_feedforward = forward(block.feedforward, x)
    x, kept_2 = forward(block.norm_2, x + y)
    return x, (kept_attention, kept_1, kept_feedforward, kept_2)


def post_norm_backward(block: PostNormBlock, dx: Tensor, kept: tuple) -> tuple[Tensor, Tensor]:
    """dx above the block (B, T, D) -> dx below it, dvalues (B, T, G K)."""
    kept_attention, kept_1, kept_feedforward, kept_2 = kept
    dx = backward(block.norm_2, dx, kept_2)
    dx = dx + backward(block.feedforward, dx, kept_feedforward)
    dx = backward(block.norm_1, dx, kept_1)
    dy, dvalues = attention_backward(block.attention, dx, kept_attention)
    return dx + dy, dvalues


BLOCKS: dict[type, tuple[Callable, Callable]] = {
    PreNormBlock: (pre_norm, pre_norm_backward),
    PostNormBlock: (post_norm, post_norm_backward),
}


def attention(layer: Attention, x: Tensor, values: Tensor | None, positions: Tensor) -> tuple[Tensor, tuple]:
    """x (B, T, D), `values` (B, T, G K) to be added to the values computed from x -> (B, T, D), kept."""
    (q, kept_to_q), (k, kept_to_k), (v, kept_to_v) = (forward(to, x) for to in (layer.to_q, layer.to_k, layer.to_v))
    q, kept_q_norm = forward(layer.q_norm, _heads(q, layer.n_heads))
    k, kept_k_norm = forward(layer.k_norm, _heads(k, layer.n_kv_heads))
    turn, turn_back = _turns(layer, x, positions)
    mask = visible(positions, positions[:, None], layer.causal, layer.window)  # (B, 1, T, T)
    y, kept_attend = attend(turn(q), turn(k), _heads(v if values is None else v + values, layer.n_kv_heads), mask)
    y, kept_to_out = forward(layer.to_out, _side_by_side(y))
    return y, (kept_to_q, kept_to_k, kept_to_v, kept_q_norm, kept_k_norm, turn_back, kept_attend, kept_to_out)


def attention_backward(layer: Attention, dy: Tensor, kept: tuple) -> tuple[Tensor, Tensor]:
    """dy (B, T, D) -> dx (B, T, D), dvalues (B, T, G K)."""
    kept_to_q, kept_to_k, kept_to_v, kept_q_norm, kept_k_norm, turn_back, kept_attend, kept_to_out = kept
    dy = _heads(backward(layer.to_out, dy, kept_to_out), layer.n_heads)
    dq, dk, dv = attend_backward(dy, kept_attend)
    dq = _side_by_side(backward(layer.q_norm, turn_back(dq), kept_q_norm))
    dk = _side_by_side(backward(layer.k_norm, turn_back(dk), kept_k_norm))
    dv = _side_by_side(dv)
    dx = backward(layer.to_q, dq, kept_to_q) + backward(layer.to_k, dk, kept_to_k) + backward(layer.to_v, dv, kept_to_v)
    return dx, dv


def _turns(
    layer: Attention, x: Tensor, positions: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Two functions: the rotation of queries and keys by their positions, and its backward."""
    if not isinstance(layer.rotate, Rotary):
        return (lambda q: q), (lambda dq: dq)
    half = layer.d_head // 2
    at = positions.clamp(min=0)[:, None]  # (B, 1, T)
    cos, sin = layer.rotate.tables(x.device, x.dtype)
    cos, sin = cos[:, :half][at], sin[:, half:][at]  # (B, 1, T, K / 2)
    return partial(rotate, cos=cos, sin=sin), partial(rotate_backward, cos=cos, sin=sin)


def _value_embeddings(module: nn.Module, ids: Tensor) -> tuple[list[Any], Callable[[list[Tensor]], None]]:
    """The value embeddings of each layer, and the backward function for their derivatives."""
    if isinstance(module, NoValueEmbedding):
        return module(ids), lambda dvalues: None
    looked_up, kept = embedding(ids, module.table.weight)

    def values_backward(dvalues: list[Tensor]) -> None:
        add(module.scales, torch.stack([(dvalue * looked_up).sum() for dvalue in dvalues]))
        dlooked_up = sum(scale * dvalue for scale, dvalue in zip(module.scales, dvalues, strict=True))
        add(module.table.weight, embedding_backward(dlooked_up, kept))

    return [scale * looked_up for scale in module.scales], values_backward


def _heads(x: Tensor, n: int) -> Tensor:
    return rearrange(x, "B T (H K) -> B H T K", H=n)


def _side_by_side(x: Tensor) -> Tensor:
    return rearrange(x, "B H T K -> B T (H K)")

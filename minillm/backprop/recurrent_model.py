"""Backward of a whole recurrent language model: embedding, layers of one cell, head.

    x = table[token];   x = unroll(cell, x) for every layer;   logits = x W^T + b

The last state is passed on to the next piece of text, but no derivative comes back from there: truncated
backpropagation through time (Williams and Peng 1990). Read before: `recurrent`.
"""

import torch
from torch import Tensor

from minillm.backprop.embedding import embedding, embedding_backward
from minillm.backprop.linear import linear, linear_backward
from minillm.backprop.recurrent import Cell, State, unroll, unroll_backward

Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # w_ih, w_hh, b_ih, b_hh of one layer


def recurrent_model(
    cell: Cell,
    tokens: Tensor,
    states: list[State],
    table: Tensor,
    layers: list[Weights],
    head: Tensor,
    head_bias: Tensor | None = None,
) -> tuple[tuple[Tensor, list[State]], tuple]:
    """tokens (B, T), one state per layer, table (V, D), head (V, H) -> (logits (B, T, V), last states), kept."""
    x, kept_table = embedding(tokens, table)
    last, kept_layers = [], []
    for state, weights in zip(states, layers, strict=True):
        (x, state), kept_layer = unroll(cell, x, state, *weights)
        last.append(state)
        kept_layers.append(kept_layer)
    logits, kept_head = linear(x, head, head_bias)
    return (logits, last), (kept_table, last, kept_layers, kept_head)


def recurrent_model_backward(dlogits: Tensor, kept: tuple) -> tuple[Tensor, list[Weights], Tensor, Tensor | None]:
    """dlogits (B, T, V) -> dtable, dlayers in the form of `layers`, dhead, dhead_bias.

    If head and table are one tensor, its derivative is the sum of the two.
    """
    kept_table, last, kept_layers, kept_head = kept
    dx, dhead, dhead_bias = linear_backward(dlogits, kept_head)
    dlayers = []
    for state, kept_layer in zip(reversed(last), reversed(kept_layers), strict=True):
        dx, _, *dweights = unroll_backward(dx, tuple(map(torch.zeros_like, state)), kept_layer)
        dlayers.append(tuple(dweights))
    return embedding_backward(dx, kept_table), dlayers[::-1], dhead, dhead_bias

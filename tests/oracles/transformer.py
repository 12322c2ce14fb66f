"""The transformer on one page: the encoder-decoder of Vaswani et al. 2017, from the paper, without options.

    PE(pos, 2i) = sin(pos / 10000^(2i/D)),   PE(pos, 2i + 1) = cos(pos / 10000^(2i/D))
    x = norm(x + sublayer(x))                         around every sublayer
    encoder: self-attention, feed-forward       decoder: masked self-attention, attention to the encoder, feed-forward

One sentence at a time, so nothing is padded. `tests/models/test_encoder_decoder.py` holds the composed model equal to
it.
"""

import math

import torch
from torch import Tensor, nn


def positions(length: int, d_model: int) -> Tensor:
    """(T, D), entry by entry."""
    table = torch.zeros(length, d_model, dtype=torch.float64)
    for position in range(length):
        for j in range(d_model):
            angle = position / 10000 ** ((j - j % 2) / d_model)
            table[position, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


class Attention(nn.Module):
    """Queries from one sentence, keys and values from the same or another."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.to_q = nn.Linear(d_model, d_model)
        self.to_k = nn.Linear(d_model, d_model)
        self.to_v = nn.Linear(d_model, d_model)
        self.to_out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Tensor, masked: bool) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.n_heads, -1)).transpose(0, 1)
            for y in (self.to_q(x), self.to_k(memory), self.to_v(memory))
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])  # (H, T, S)
        if masked:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        return self.to_out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


class FeedForward(nn.Module):
    """max(0, x W1 + b1) W2 + b2, for every token alone."""

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).clamp(min=0))


class EncoderBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__()
        self.attention, self.feedforward = Attention(d_model, n_heads), FeedForward(d_model, d_ff)
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, x, masked=False))
        return self.norm_2(x + self.feedforward(x))


class DecoderBlock(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__()
        self.attention, self.cross, self.feedforward = (
            Attention(d_model, n_heads),
            Attention(d_model, n_heads),
            FeedForward(d_model, d_ff),
        )
        self.norm_1, self.norm_2, self.norm_3 = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, x, masked=True))
        x = self.norm_2(x + self.cross(x, memory, masked=False))
        return self.norm_3(x + self.feedforward(x))


class Transformer(nn.Module):
    """A source (S) and the words so far (T) -> logits of the next word after each of them (T, V)."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, d_ff: int, n_layers: int):
        super().__init__()
        self.d_model = d_model
        self.embed = nn.Embedding(vocab_size, d_model)  # shared by source, target and (transposed) the output
        self.encoder = nn.ModuleList(EncoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.decoder = nn.ModuleList(DecoderBlock(d_model, n_heads, d_ff) for _ in range(n_layers))

    def read(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens) * math.sqrt(self.d_model) + positions(len(tokens), self.d_model)

    def forward(self, source: Tensor, tokens: Tensor) -> Tensor:
        memory, x = self.read(source), self.read(tokens)
        for block in self.encoder:
            memory = block(memory)
        for block in self.decoder:
            x = block(x, memory)
        return x @ self.embed.weight.T

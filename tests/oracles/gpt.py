"""GPT on one page: the decoder of Radford et al. 2019 with nothing left out and nothing to choose. Start reading here.

    x = embed(token) + embed(position)
    x = x + attention(norm(x));   x = x + mlp(norm(x))        once for every block
    logits = norm(x) @ embed^T

Everything that minillm's models can do beyond this (other positions, norms and activations, caches, fused kernels) is a
variation on this page. `tests/models/test_decoder.py` holds the composed model equal to it, weight for weight.
"""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Every token takes a weighted mean of what the tokens up to itself have to say."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.to_q = nn.Linear(d_model, d_model)  # what a token asks
        self.to_k = nn.Linear(d_model, d_model)  # what it can be found by
        self.to_v = nn.Linear(d_model, d_model)  # what it has to say
        self.to_out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            to(x).view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(D // self.n_heads)  # (B, H, T, T), one for each query and key
        future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)  # rows sum to 1, 0 after the diagonal
        return self.to_out((weights @ v).transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    """Every token thinks for itself."""

    def __init__(self, d_model: int):
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        gelu = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.down(gelu)


class Block(nn.Module):
    """Look around, then think; each adds to what is already known."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.norm_1 = nn.LayerNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.norm_2 = nn.LayerNorm(d_model)
        self.feedforward = MLP(d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.feedforward(self.norm_2(x))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): at each place, a score for every token that could come next."""

    def __init__(self, vocab_size: int, context_length: int, d_model: int, n_heads: int, n_layers: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.embed_positions = nn.Embedding(context_length, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embed.weight  # what a token means when it is read and when it is written

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.embed_positions(torch.arange(tokens.shape[1]))  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

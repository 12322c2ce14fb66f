"""Heads of an encoder: output layers for masked tokens, classes, and sentence vectors.

    masked token       embed^T norm(f(dense(x))) + bias          at every place (Devlin et al. 2019)
    class              head(tanh(dense(x of the first token)))   of a text, or of a pair (does the second follow?)
    sentence vector    mean of x over the tokens, scaled to length 1; cosines compare texts (Reimers and Gurevych 2019)

Every text begins with the same token, END, so the vector of the first token depends only on the rest of the text. Read
before: `encoder`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.layers.norm import LayerNorm


class MaskedHead(nn.Module):
    """Hidden vectors (..., D) -> logits (..., V); the weight of the last layer is the embedding (tied)."""

    def __init__(self, embed: nn.Embedding, activation: Callable[[Tensor], Tensor], norm_eps: float, gain: float = 1.0):
        """`gain`: initial gain of the norm; below 1 for large initial embeddings, so first guesses are near uniform."""
        super().__init__()
        self.dense = nn.Linear(embed.embedding_dim, embed.embedding_dim)
        self.activation = activation
        self.norm = LayerNorm(embed.embedding_dim, eps=norm_eps)
        nn.init.constant_(self.norm.weight, gain)
        self.embed = embed
        self.bias = nn.Parameter(torch.zeros(embed.num_embeddings))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(self.activation(self.dense(x))), self.embed.weight, self.bias)


class NoMaskedHead(nn.Module):
    """Stands in for a masked head where there is none; raises ValueError."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(
            "model.masked_head = false: expected no prediction of tokens, only hidden vectors; "
            "use sentence vectors, or a model with a masked head"
        )


class PooledHead(nn.Module):
    """Classification head: vectors (B, T, D) of tokens (B, T) -> logits (B, C) of C classes."""

    def __init__(self, d_model: int, n_classes: int, dropout: float, init_std: float):
        super().__init__()
        self.dense, self.head = nn.Linear(d_model, d_model), nn.Linear(d_model, n_classes)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.dense, self.head):
            nn.init.normal_(linear.weight, std=init_std)
            nn.init.zeros_(linear.bias)

    def pool(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Pooling: transform the vector of each row's first token after any padding: (B, T, D) -> (B, D)."""
        first = (tokens >= 0).int().argmax(1)  # (B,)
        return torch.tanh(self.dense(hidden[torch.arange(len(tokens), device=tokens.device), first]))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.pool(hidden, tokens)))


class Classifier(nn.Module):
    """Text classifier, an encoder with a pooled head: tokens (B, T) -> logits (B, C)."""

    head = None  # no logits of tokens

    def __init__(self, encoder: nn.Module, n_classes: int):
        super().__init__()
        c = encoder.config
        self.encoder, self.answer = encoder, PooledHead(c.d_model, n_classes, c.dropout, c.init_std)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.answer(self.encoder.hidden(tokens), tokens)


def sentence_vectors(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """One vector of length 1 for each row, without padding: tokens (B, T) -> (B, D). Rows without tokens get zeros."""
    filled = (tokens >= 0)[..., None]  # (B, T, 1)
    mean = encoder.hidden(tokens).masked_fill(~filled, 0.0).sum(1) / filled.sum(1).clamp(min=1)
    return F.normalize(mean, dim=-1)


def nearest(query: Tensor, vectors: Tensor, n: int) -> list[tuple[int, float]]:
    """(row, cosine) of the n vectors (N, D) most similar to query (D,), the best first; all have length 1."""
    cosines, rows = (vectors @ query).topk(min(n, len(vectors)))
    return list(zip(rows.tolist(), cosines.tolist(), strict=True))

"""Attention: each token takes a weighted mean of the values of the tokens that it may see.

    scores = q k^T / sqrt(K)      weights = softmax(scores)      output = weights v

The query q of a token describes what it looks for, the key k of another what it offers, the value v what it adds.
A dot product of K pairs of numbers of variance 1 has variance K; divided by sqrt(K), scores are small enough that the
softmax does not put all weight on one token. A causal mask hides later tokens. Multi-head attention computes queries,
keys and values with three learned matrices, splits them into H heads of K = D / H numbers that attend independently,
and mixes their outputs with a fourth matrix. In self-attention memory is x; in cross-attention it is another text.

Paper: Vaswani et al. 2017, "Attention Is All You Need".
Read before: cross_entropy (softmax).
Then read: minillm/layers/attention.py
Try: python sample.py --attention

Change it:
    - scores = q @ k.mT / math.sqrt(K)
    + scores = q @ k.mT
Shown: weights   1.000   0.000
"""

import math

import torch
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Queries (..., T, K), keys and values (..., S, K) -> outputs (..., T, K); weights (..., T, S), rows of sum 1."""
    K = q.shape[-1]
    scores = q @ k.mT / math.sqrt(K)  # (..., T, S)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal=1)  # (T, S)
        scores = scores.masked_fill(later, -math.inf)
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


class MultiHeadAttention(nn.Module):
    """Attention in H heads: queries from x (..., T, D), keys and values from memory (..., S, D) -> (..., T, D)."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.to_q = nn.Linear(d_model, d_model)
        self.to_k = nn.Linear(d_model, d_model)
        self.to_v = nn.Linear(d_model, d_model)
        self.to_out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Tensor, causal: bool) -> Tensor:
        q = self.to_q(x).chunk(self.n_heads, dim=-1)  # H times (..., T, K)
        k = self.to_k(memory).chunk(self.n_heads, dim=-1)
        v = self.to_v(memory).chunk(self.n_heads, dim=-1)
        outputs = [attention(*head, causal)[0] for head in zip(q, k, v, strict=True)]
        return self.to_out(torch.cat(outputs, dim=-1))


def main() -> None:
    """Two scores that can be checked by hand, three tokens under a causal mask, and the parameters of a layer."""
    q = torch.full((1, 64), 1.0)
    k = torch.stack([torch.full((64,), 1.75), torch.full((64,), 1.5)])
    print("one query, two keys, K = 64")
    print("q k^T", *(f"{score:8.1f}" for score in (q @ k.T)[0]))
    print("divided by sqrt(64) = 8:  14.0 and 12.0")
    _, weights = attention(q, k, v=torch.eye(64)[:2], causal=False)
    print("weights", *(f"{weight:7.3f}" for weight in weights[0]))
    print(f"by hand: 1 / (1 + e^-2) = {1 / (1 + math.exp(-2)):.3f}")

    torch.manual_seed(0)
    x = torch.randn(3, 4)
    output, weights = attention(x, x, x, causal=True)
    print("\nthree tokens that may not see later ones; each row sums to 1:")
    print("\n".join("  ".join(f"{weight:.3f}" for weight in row) for row in weights))
    print("the first token sees only itself, so its output is its own value:", torch.equal(output[0], x[0]))

    layer = MultiHeadAttention(d_model=4, n_heads=2)
    print(f"\nmulti-head attention: {tuple(x.shape)} -> {tuple(layer(x, x, causal=True).shape)}")
    print(f"its parameters: {sum(p.numel() for p in layer.parameters())} = 4 (D^2 + D) with D = 4")


if __name__ == "__main__":
    main()

"""Attention: each token takes a weighted mean of the values of the tokens that it may see.

    scores = q k^T / sqrt(K)      weights = softmax(scores)      output = weights v

A token's query q says what it looks for, the key k of another what that one offers, the value v what it hands over.
A dot product of K numbers of variance 1 has variance K; dividing by sqrt(K) keeps the scores small enough for a softmax
that does not choose a single token. A causal mask hides the tokens that come later.

Paper: Vaswani et al. 2017, "Attention Is All You Need".
Read before: cross_entropy (softmax).
Then read: minillm/layers/attention.py
Try: python sample.py --attention

Change it:
    - scores = q @ k.T / math.sqrt(K)
    + scores = q @ k.T
Shown: weights   1.000   0.000
"""

import math

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Queries (T, K), keys and values (S, K) -> outputs (T, K) and the weights (T, S), each row of which sums to 1."""
    T, K = q.shape
    scores = q @ k.T / math.sqrt(K)  # (T, S)
    if causal:
        later = torch.ones(T, len(k), dtype=torch.bool).triu(diagonal=1)  # (T, S)
        scores = scores.masked_fill(later, -math.inf)
    weights = scores.softmax(dim=-1)  # (T, S)
    return weights @ v, weights


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, n_heads: int, causal: bool) -> Tensor:
    """Attention in `n_heads` parts of the width, each with weights of its own: (T, D) -> (T, D)."""
    heads = zip(q.chunk(n_heads, dim=1), k.chunk(n_heads, dim=1), v.chunk(n_heads, dim=1), strict=True)
    return torch.cat([attention(*head, causal=causal)[0] for head in heads], dim=1)


def main() -> None:
    """Two scores that can be checked by hand, then three tokens under a causal mask."""
    q = torch.full((1, 64), 1.0)
    k = torch.stack([torch.full((64,), 1.75), torch.full((64,), 1.5)])
    v = torch.eye(64)[:2]
    print("one query, two keys, K = 64")
    print("q k^T", *(f"{score:8.1f}" for score in (q @ k.T)[0]))
    print("divided by sqrt(64) = 8:  14.0 and 12.0")
    _, weights = attention(q, k, v, causal=False)
    print("weights", *(f"{weight:7.3f}" for weight in weights[0]))
    print(f"by hand: 1 / (1 + e^-2) = {1 / (1 + math.exp(-2)):.3f}")

    torch.manual_seed(0)
    x = torch.randn(3, 4)
    output, weights = attention(x, x, x, causal=True)
    print("\nthree tokens that may not see later ones; each row sums to 1:")
    print("\n".join("  ".join(f"{weight:.3f}" for weight in row) for row in weights))
    print("the first token sees itself alone, so its output is its own value:", torch.equal(output[0], x[0]))


if __name__ == "__main__":
    main()

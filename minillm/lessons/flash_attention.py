"""FlashAttention: exact attention computed in tiles, with one tile of scores in memory instead of all T x T.

A softmax seems to need all scores of a query at once. The online softmax keeps three results for each query and updates
them with each tile of scores s and values v: the largest score m, l = sum of e^(s - m), and o = sum of e^(s - m) v.

    m' = max(m, max s)      l' = l e^(m - m') + sum e^(s - m')      o' = o e^(m - m') + e^(s - m') v

At the end o / l = softmax(s) v: if a tile has a larger score, e^(m - m') rescales the earlier sums. Memory grows with T
instead of T^2. A tile fits into the fast memory of a GPU, which makes the computation fast.

Paper: Dao et al. 2022, "FlashAttention"; Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
Read before: attention.
Then read: minillm/layers/flash.py
Try: python -m benchmarks.attention

Change it:
    - shrink = (m - highest).exp()
    + shrink = torch.ones_like(m)
Shown: output o / l = 6.000
"""

import math

import torch
from torch import Tensor

from minillm.lessons.attention import attention


def add_tile(m: Tensor, l: Tensor, o: Tensor, scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the online softmax: m, l (T,) and o (T, K) after a tile of scores (T, S) with values v (S, K)."""
    highest = torch.maximum(m, scores.amax(dim=1))  # (T,)
    shrink = (m - highest).exp()
    weights = (scores - highest[:, None]).exp()  # (T, S)
    return highest, l * shrink + weights.sum(dim=1), o * shrink[:, None] + weights @ v


def flash_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> Tensor:
    """The outputs (T, K) of `attention`; no tensor of scores is larger than tile x tile."""
    outputs = []
    for i in range(0, len(q), tile):
        queries = q[i : i + tile]
        m, l, o = torch.full_like(queries[:, 0], -math.inf), torch.zeros_like(queries[:, 0]), torch.zeros_like(queries)
        end = min(len(k), i + tile) if causal else len(k)  # a later tile is hidden from all of these queries
        for j in range(0, end, tile):
            scores = queries @ k[j : j + tile].T / math.sqrt(q.shape[1])
            if causal:
                later = torch.arange(j, j + scores.shape[1]) > torch.arange(i, i + len(queries))[:, None]
                scores = scores.masked_fill(later, -math.inf)
            m, l, o = add_tile(m, l, o, scores, v[j : j + tile])
        outputs.append(o / l[:, None])
    return torch.cat(outputs)


def main() -> None:
    """One query and two tiles by hand, then a whole text."""
    print("one query, two tiles of one score each: s = 0 with value 8, then s = ln 3 = 1.099 with value 4")
    m, l, o = torch.tensor([-math.inf]), torch.zeros(1), torch.zeros(1, 1)
    for score, value in ((0.0, 8.0), (math.log(3), 4.0)):
        m, l, o = add_tile(m, l, o, torch.tensor([[score]]), torch.tensor([[value]]))
        print(f"after s = {score:.3f}: m = {m.item():.3f}  l = {l.item():.3f}  o = {o.item():.3f}")
    print(f"output o / l = {(o / l).item():.3f}")
    print(f"by hand: (1 * 8 + 3 * 4) / (1 + 3) = {(1 * 8 + 3 * 4) / (1 + 3):.3f}")

    torch.manual_seed(0)
    T, K, tile = 256, 16, 32
    q, k, v = torch.randn(3, T, K)
    expected, _ = attention(q, k, v, causal=True)
    equal = torch.allclose(flash_attention(q, k, v, causal=True, tile=tile), expected, atol=1e-5)
    print(f"\n{T} tokens in tiles of {tile}: equal to attention: {equal}")
    print(f"scores held at once: {tile} * {tile} = {tile * tile} instead of {T} * {T} = {T * T}")


if __name__ == "__main__":
    main()

"""KV cache: the keys and values of tokens already read are kept, so only those of new tokens are computed.

    k, v = x W_k, x W_v  for the new tokens only        output = softmax(q [k_cache; k]^T / sqrt(K)) [v_cache; v]

Under a causal mask the key and the value of a token do not depend on later tokens, so they never change. Without the
cache every step computes them again for the whole text. The cache costs memory instead:

    bytes = 2 (keys and values) * layers * key heads * numbers of a head * tokens * texts * bytes of a number

The positions of new queries continue after the cache: the first new token sees the whole cache and itself.

Paper: Shazeer 2019, "Fast Transformer Decoding: One Write-Head is All You Need" (fewer key heads, a smaller cache).
Read before: attention, generation.
Then read: minillm/cache/kv_cache.py, minillm/cache/contiguous.py
Try: python -m benchmarks.decode

Change it:
    - positions = torch.arange(n_cached, n_cached + T)
    + positions = torch.arange(T)
Shown: 4 keys in the cache, output 2.0
"""

import math

import torch
from torch import Tensor

from minillm.lessons.attention import attention


class KVCache:
    """The keys and values, each (S, K), of the S tokens that one attention head has read."""

    def __init__(self, d_head: int):
        self.k = self.v = torch.empty(0, d_head)

    def append(self, k: Tensor, v: Tensor) -> None:
        """Add the keys and values (T, K) of T new tokens."""
        self.k, self.v = torch.cat([self.k, k]), torch.cat([self.v, v])


def read(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], cache: KVCache) -> Tensor:
    """New tokens x (T, D) -> outputs (T, K). Each sees the tokens in the cache and the new ones up to itself."""
    q, k, v = (x @ weight for weight in weights)  # (T, K) each
    n_cached, (T, K) = len(cache.k), q.shape
    cache.append(k, v)
    positions = torch.arange(n_cached, n_cached + T)  # of the queries
    visible = torch.arange(n_cached + T) <= positions[:, None]  # (T, S)
    scores = (q @ cache.k.T / math.sqrt(K)).masked_fill(~visible, -math.inf)
    return scores.softmax(dim=-1) @ cache.v


def n_bytes(n_layers: int, n_kv_heads: int, d_head: int, n_tokens: int, n_texts: int, itemsize: int) -> int:
    """The size of the cache of a whole model; `itemsize` is the number of bytes of a number."""
    return 2 * n_layers * n_kv_heads * d_head * n_tokens * n_texts * itemsize


def main() -> None:
    """A running mean, the keys that are computed, and the size of the caches of three models."""
    x, one, zero = torch.tensor([[2.0], [4.0], [6.0], [8.0]]), torch.ones(1, 1), torch.zeros(1, 1)
    print(
        "tokens 2 4 6 8, W_q = 0, W_k = W_v = 1: all weights are equal, so an output is the mean of the visible tokens"
    )
    cache = KVCache(1)
    for t in range(4):
        output = read(x[t : t + 1], (zero, one, one), cache)
        print(f"token {t + 1}: 1 new key, {len(cache.k)} keys in the cache, output {output.item():.1f}")
    print("keys computed with the cache: 4; without it: 1 + 2 + 3 + 4 = 10")

    torch.manual_seed(0)
    x, weights, cache = torch.randn(6, 5), tuple(torch.randn(3, 5, 4)), KVCache(4)
    at_once, _ = attention(*(x @ weight for weight in weights), causal=True)
    in_parts = torch.cat([read(part, weights, cache) for part in x.split([3, 1, 2])])
    print("\nsix random tokens, read in parts of 3, 1 and 2")
    print("equal to attention over the whole text:", torch.allclose(at_once, in_parts, atol=1e-5))

    print("\nbytes of one text in fp16, 2 bytes per number:")
    for name, n_layers, n_kv_heads, n_tokens in (
        ("Llama-2-7B", 32, 32, 4096),
        ("Llama-2-7B", 32, 32, 131072),
        ("Llama-2-70B", 80, 8, 4096),
    ):
        size = n_bytes(n_layers, n_kv_heads, 128, n_tokens, n_texts=1, itemsize=2) / 2**30
        print(f"{name:<12} 2 * {n_layers} * {n_kv_heads:2} * 128 * {n_tokens:6} * 1 * 2 = {size:5.2f} GiB")


if __name__ == "__main__":
    main()

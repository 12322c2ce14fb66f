"""Cache quantization: store keys and values as 4-bit integers with shared scales; all tokens are kept, but rounded.

    scale = (max - min) / 15      code = round((x - min) / scale), 0 ... 15      x' = min + scale * code
    |x - x'| <= scale / 2, so numbers that share a scale should be of one size

Two codes share a byte; with one 4-bit code per byte nothing would be saved over 8 bits. Scales and minima take bytes
too. Some channels of keys are large in every token, so keys have one scale for each channel of a group of tokens.
Values have no such channels, so they have one scale for each token. Only complete groups are rounded; the last tokens
stay exact.

Paper: Liu et al. 2024, "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache".
Read before: kv_cache.
Then read: minillm/cache/quantized.py
Try: python sample.py --cache int4

Change it:
    - self.groups.append((quantize(self.k[:group], dim=0), quantize(self.v[:group], dim=1)))
    + self.groups.append((quantize(self.k[:group], dim=1), quantize(self.v[:group], dim=1)))
Shown: largest error of a key: 3.5
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """A matrix (T, K) with 4 bits per number."""

    codes: Tensor  # (T / 2, K) uint8: tokens 2 i and 2 i + 1 share a byte
    scale: Tensor  # (1, K) or (T, 1)
    low: Tensor  # as scale


def quantize(x: Tensor, dim: int) -> Quantized:
    """Round x (T, K), T even; the numbers along `dim` share a scale."""
    low, high = x.aminmax(dim=dim, keepdim=True)
    scale = (high - low) / 15
    codes = ((x - low) / scale.where(scale > 0, 1.0)).round().to(torch.uint8)
    return Quantized(codes[0::2] | codes[1::2] << 4, scale, low)


def dequantize(x: Quantized) -> Tensor:
    """The rounded numbers (T, K)."""
    codes = torch.stack([x.codes & 15, x.codes >> 4], dim=1).flatten(0, 1)
    return x.low + x.scale * codes


class QuantizedCache:
    """One head's keys and values: complete groups of tokens in 4 bits, at least the last `n_exact` tokens exact."""

    def __init__(self, group: int, n_exact: int, d_head: int):
        self.group, self.n_exact = group, n_exact
        self.groups: list[tuple[Quantized, Quantized]] = []
        self.k = self.v = torch.empty(0, d_head)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add T tokens (T, K) and return all keys and values (S, K); the new ones are still exact."""
        self.k, self.v = torch.cat([self.k, k]), torch.cat([self.v, v])
        seen = [*(tuple(map(dequantize, pair)) for pair in self.groups), (self.k, self.v)]
        group = self.group
        while len(self.k) >= group + self.n_exact:
            self.groups.append((quantize(self.k[:group], dim=0), quantize(self.v[:group], dim=1)))
            self.k, self.v = self.k[group:], self.v[group:]
        keys, values = zip(*seen, strict=True)
        return torch.cat(keys), torch.cat(values)


def main() -> None:
    """Four numbers by hand, then a cache with one large channel of keys."""
    numbers = [-1.0, 0.33, 0.9, 2.0]
    packed = quantize(torch.tensor(numbers)[:, None], dim=0)
    print("numbers", *numbers, f"-> scale (2 - -1) / 15 = {packed.scale.item():.1f}, minimum {packed.low.item():.0f}")
    print("codes 0 7 10 15 -> bytes 0 + 16 * 7 and 10 + 16 * 15 =", *packed.codes[:, 0].tolist())
    print("back", *(f"{x:.1f}" for x in dequantize(packed)[:, 0]), "-> no error is larger than scale / 2 = 0.1")

    torch.manual_seed(0)
    k, v = torch.randn(2, 36, 64)
    k[:, 3] += 100  # a channel that is large in every token
    cache = QuantizedCache(group=32, n_exact=4, d_head=64)
    cache.append(k, v)
    keys, values = cache.append(k[:0], v[:0])
    print("\n36 tokens of 64 channels, channel 3 of the keys near 100: 32 tokens are rounded, 4 are exact")
    for name, exact, seen in (("key", k, keys), ("value", v, values)):
        print(f"largest error of a {name}: {(seen - exact).abs().max():.1f}")
    for name, part in zip(("keys", "values"), cache.groups[0], strict=True):
        codes, shared = part.codes.nbytes, part.scale.nbytes + part.low.nbytes
        print(f"{name:<6} in fp16: 32 * 64 * 2 = 4096 bytes; in 4 bits: {codes} + {shared} of scales and minima")


if __name__ == "__main__":
    main()

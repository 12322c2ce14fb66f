"""FlashAttention (Dao et al. 2022): exact attention computed tile by tile, without storing the T x S weights.

For a tile of queries, a loop goes over tiles of keys. Over all scores s = q k^T / sqrt(K) so far, each query keeps the
maximum m, the sum l of e^(s - m), and o, the sum of the values weighted by e^(s - m). When a tile raises the maximum
from m to m', l and o are rescaled:

    l = l e^(m - m') + sum e^(s - m')      o = o e^(m - m') + e^(s - m') v      at the end  o / l = softmax(s) v

This is the online softmax (Milakov and Gimelshein 2018). The backward pass recomputes the weights e^(s - L) tile by
tile; for that the forward pass saves only L = m + log l of each query. This file is for reading: `attend` calls torch's
fused kernel, which is the same idea compiled. Read `attention` before this.
"""

import math
from collections.abc import Iterator
from itertools import compress
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from minillm.cache.kv_cache import KVView
from minillm.layers.masks import visible
from minillm.layers.positions import Bias, no_bias


def attend_in_tiles(
    q: Tensor, view: KVView, q_positions: Tensor, causal: bool, window: int = 0, bias: Bias = no_bias, tile: int = 128
) -> Tensor:
    """Compute `attend_plainly` in tiles: q (B, H, T, K) over S slots -> (B, H, T, K), with gradients for q, k and v.

    Extra memory: a few tiles of (B, H, tile, tile) scores, and one number per query.
    """
    grouped = rearrange(q, "B (G h) T K -> B G h T K", G=view.k.shape[1])
    return _InTiles.apply(
        grouped, view.k, view.v, q_positions, view.positions, _Rule(causal, window, bias, tile)
    ).flatten(1, 2)


class _Rule(NamedTuple):
    """How scores are masked and biased, given positions of queries (B or 1, T) and of slots (B or 1, G or 1, S)."""

    causal: bool
    window: int
    bias: Bias
    tile: int

    def scores(self, q: Tensor, k: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Scores of one tile, -inf where masked: q (B, G, h, t, K), k (B, G, s, K) -> (B, G, h, t, s)."""
        scores = torch.einsum("BGhTK,BGSK->BGhTS", q, k) / math.sqrt(q.shape[-1])
        scores = (scores.flatten(1, 2) + self.bias(q_positions, k_positions, scores.dtype)).unflatten(1, q.shape[1:3])
        return scores.masked_fill(~visible(q_positions, k_positions, self.causal, self.window)[:, :, None], -torch.inf)

    def tiles(self, q_positions: Tensor, k_positions: Tensor) -> Iterator[tuple[slice, list[slice]]]:
        """Each tile of queries, with those tiles of slots in which one of its queries may see a slot.

        The decision uses only the smallest and the largest position of each tile.
        """
        rows, columns = (
            [slice(i, i + self.tile) for i in range(0, x.shape[-1], self.tile)] for x in (q_positions, k_positions)
        )
        if not columns:
            return
        beyond = torch.iinfo(k_positions.dtype).max
        last = torch.stack([k_positions[..., c].amax(-1) for c in columns])  # (tiles, B or 1, G or 1)
        first = torch.stack(
            [k_positions[..., c].masked_fill(k_positions[..., c] < 0, beyond).amin(-1) for c in columns]
        )
        for r in rows:
            low, high = q_positions[:, r].aminmax(dim=-1, keepdim=True)  # (B or 1, 1)
            worth = last >= 0
            if self.causal:
                worth = worth & (first <= high)
            if self.window:
                worth = worth & (low - last < self.window)
            yield r, list(compress(columns, worth.flatten(1).any(1).tolist()))


class _InTiles(torch.autograd.Function):
    """q (B, G, h, T, K) over k and v (B, G, S, K); sums are computed in float32 or wider."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, q: Tensor, k: Tensor, v: Tensor, q_positions: Tensor, k_positions: Tensor, rule: _Rule
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out, log_sum = torch.zeros_like(q), q.new_zeros(q.shape[:-1], dtype=wide)  # the latter is L
        for rows, seen in rule.tiles(q_positions, k_positions):
            queries = q[..., rows, :].to(wide)
            # subtle: not -inf, since a query that has seen no slot yet would compute -inf - -inf.
            best = torch.full_like(queries[..., 0], torch.finfo(wide).min)  # m
            total, mean = torch.zeros_like(best), torch.zeros_like(queries)  # l, o
            for columns in seen:
                keys, values = k[:, :, columns].to(wide), v[:, :, columns].to(wide)
                scores = rule.scores(queries, keys, q_positions[:, rows], k_positions[:, :, columns])
                higher = torch.maximum(best, scores.amax(-1))
                weights, shrink = (scores - higher[..., None]).exp(), (best - higher).exp()
                total = total * shrink + weights.sum(-1)
                mean = mean * shrink[..., None] + torch.einsum("BGhTS,BGSK->BGhTK", weights, values)
                best = higher
            # The highest score alone adds e^0 = 1, so only a query that saw no slot has a smaller sum.
            total = total.clamp(min=1)
            out[..., rows, :], log_sum[..., rows] = mean / total[..., None], best + total.log()
        ctx.save_for_backward(q, k, v, q_positions, k_positions, out, log_sum)
        ctx.rule = rule
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Gradients for q, k and v, with the weights p and the gradient g of the output:

        dv = p^T g      ds = p (g v^T - g . out)      dq = ds k / sqrt(K)      dk = ds^T q / sqrt(K)
        """
        q, k, v, q_positions, k_positions, out, log_sum = ctx.saved_tensors
        wide = log_sum.dtype
        dq, dk, dv = (torch.zeros_like(x, dtype=wide) for x in (q, k, v))
        for rows, seen in ctx.rule.tiles(q_positions, k_positions):
            queries, g = q[..., rows, :].to(wide), gradient[..., rows, :].to(wide)
            mean = (g * out[..., rows, :]).sum(-1, keepdim=True)
            for columns in seen:
                keys, values = k[:, :, columns].to(wide), v[:, :, columns].to(wide)
                scores = ctx.rule.scores(queries, keys, q_positions[:, rows], k_positions[:, :, columns])
                weights = (scores - log_sum[..., rows, None]).exp()
                dv[:, :, columns] += torch.einsum("BGhTS,BGhTK->BGSK", weights, g)
                ds = weights * (torch.einsum("BGhTK,BGSK->BGhTS", g, values) - mean) / math.sqrt(q.shape[-1])
                dq[..., rows, :] += torch.einsum("BGhTS,BGSK->BGhTK", ds, keys)
                dk[:, :, columns] += torch.einsum("BGhTS,BGhTK->BGSK", ds, queries)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None

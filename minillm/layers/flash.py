"""Attention taken apart: tile by tile, exact to rounding, and no T x S matrix is ever made.

A tile of queries walks over tiles of keys; of all scores s = q k^T / sqrt(K) met so far, each query keeps the highest
m, the sum l of e^(s - m), and o, the values weighted by e^(s - m). When the next tile brings a higher score m', what
was kept shrinks:

    l = l e^(m - m') + sum e^(s - m')      o = o e^(m - m') + e^(s - m') v      at the end  o / l = softmax(s) v

That is the online softmax (Milakov and Gimelshein 2018). For the backward pass L = m + log l of each query is enough to
make the weights e^(s - L) again, tile by tile (FlashAttention, Dao et al. 2022). This file is to be read; `attend`
calls torch's fused kernels, the same idea compiled. Read `attention` before this.
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
    """The same as `attend_plainly` for every view: q (B, H, T, K) over S slots -> (B, H, T, K); gradients for q, k and v.

    Beside its arguments, its result and their gradients it holds a few tiles of (B, H, tile, tile) scores and one
    number a query.
    """
    grouped = rearrange(q, "B (G h) T K -> B G h T K", G=view.k.shape[1])
    return _InTiles.apply(
        grouped, view.k, view.v, q_positions, view.positions, _Rule(causal, window, bias, tile)
    ).flatten(1, 2)


class _Rule(NamedTuple):
    """The mask and the bias of scores, from positions of queries (B or 1, T) and of slots (B or 1, G or 1, S)."""

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
        """Each tile of queries with the tiles of slots where one of them may see something, told from where tiles begin and end."""
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
    """q (B, G, h, T, K) over k and v (B, G, S, K); sums are kept in float32 at least."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, q: Tensor, k: Tensor, v: Tensor, q_positions: Tensor, k_positions: Tensor, rule: _Rule
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        out, log_sum = torch.zeros_like(q), q.new_zeros(q.shape[:-1], dtype=wide)  # the latter is L
        for rows, seen in rule.tiles(q_positions, k_positions):
            queries = q[..., rows, :].to(wide)
            # subtle: not -inf, which a query that has seen nothing yet would subtract from itself.
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
            total = total.clamp(
                min=1
            )  # the highest score alone gives e^0: only the sum of a query that saw nothing is less
            out[..., rows, :], log_sum[..., rows] = mean / total[..., None], best + total.log()
        ctx.save_for_backward(q, k, v, q_positions, k_positions, out, log_sum)
        ctx.rule = rule
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """With the weights p and the gradient g of the output:

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

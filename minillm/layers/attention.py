"""Attention: the output at each token is a weighted mean of the values of the tokens that it may see.

    weights = softmax(q k^T / sqrt(K))      output = weights v                          Vaswani et al. 2017

The queries of H heads share the keys and values of G <= H groups (grouped-query attention, Ainslie et al. 2023; G = 1
is multi-query attention). With sinks, the softmax has one more number per head, which is learned and takes a share of
the attention without a value, so that a head can attend to nothing (Xiao et al. 2023; OpenAI 2025, gpt-oss).
`attend_plainly` is the equation, `attend` computes the same with torch's fused kernel, and `Attention` is the layer
around it. Read before: `masks`, and `positions` for `rotate` and `bias`. Next: `flash`, which shows how a fused kernel
computes attention.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn

from minillm.cache.kv_cache import NO_CACHE, KVCache, KVView, Positions, Rotate
from minillm.layers.masks import visible
from minillm.layers.norm import NoNorm
from minillm.layers.positions import Bias, no_bias, no_rotation


def over_slots(scores: Tensor) -> Tensor:
    """Softmax over the slots: scores (B, H, T, S) -> weights (B, H, T, S)."""
    return torch.softmax(scores, dim=-1)


class SinkSoftmax(nn.Module):
    """Softmax over the slots and one sink per head: scores (B, H, T, S) -> weights of the slots, (B, H, T, S)."""

    def __init__(self, n_heads: int):
        super().__init__()
        self.sinks = nn.Parameter(torch.zeros(n_heads))  # the score of each head's sink

    def forward(self, scores: Tensor) -> Tensor:
        sinks = self.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]


Softmax = Callable[[Tensor], Tensor]


def attend_plainly(
    q: Tensor,
    view: KVView,
    q_positions: Tensor,
    causal: bool,
    window: int = 0,
    dropout: float = 0.0,
    *,
    bias: Bias = no_bias,
    softmax: Softmax = over_slots,
) -> Tensor:
    """Attention as in the equation above: q (B, H, T, K) over a view of S slots -> (B, H, T, K)."""
    weights = F.dropout(weigh(q, view, q_positions, causal, window, bias, softmax), dropout)
    return weights @ repeat(view.v, "B G S K -> B (G h) S K", h=q.shape[1] // view.v.shape[1])


def weigh(
    q: Tensor,
    view: KVView,
    q_positions: Tensor,
    causal: bool,
    window: int = 0,
    bias: Bias = no_bias,
    softmax: Softmax = over_slots,
) -> Tensor:
    """Attention weights, the share of each slot in each query's output: q (B, H, T, K) -> (B, H, T, S)."""
    k = repeat(view.k, "B G S K -> B (G h) S K", h=q.shape[1] // view.k.shape[1])
    mask = visible(q_positions, view.positions, causal, window)  # (B or 1, G or 1, T, S)
    mask = repeat(mask, "B G T S -> B (G h) T S", h=q.shape[1] // mask.shape[1])
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias(q_positions, view.positions, q.dtype)
    weights = softmax(scores.masked_fill(~mask, -torch.inf))
    return weights.nan_to_num(0.0)  # a query that sees no slot gets weights of 0


def attend(q: Tensor, view: KVView, q_positions: Tensor, causal: bool, window: int = 0, dropout: float = 0.0) -> Tensor:
    """Attention by torch's fused kernel, with the simplest mask that the case allows: q (B, H, T, K) -> (B, H, T, K).

    Over a dense view no longer than the window, non-causal attention and single queries need no mask, and a whole text
    needs only the causal triangle. In all other cases the mask is computed from positions. Torch's fused kernel never
    stores the T x S weights.
    """
    (_, n_heads, n_queries, _), (_, n_groups, n_slots, _) = q.shape, view.k.shape
    fused = partial(F.scaled_dot_product_attention, dropout_p=dropout, enable_gqa=n_groups != n_heads)
    plain = view.dense and (not window or n_slots <= window)
    if plain and (not causal or n_queries == 1):
        return fused(q, view.k, view.v)
    if plain and n_queries == n_slots:
        return fused(q, view.k, view.v, is_causal=True)
    mask, blind = _sight(q_positions, view, causal, window, n_heads)
    return fused(q, view.k, view.v, mask).masked_fill(blind, 0.0)


def attend_with_bias(
    q: Tensor, view: KVView, q_positions: Tensor, causal: bool, window: int = 0, dropout: float = 0.0, *, bias: Bias
) -> Tensor:
    """Attention by torch's fused kernel with a bias on the scores, such as `Alibi`: q (B, H, T, K) -> (B, H, T, K).

    The kernel takes the bias as a tensor of (B or 1, H, T, S). `attend` stores at most a mask, `attend_in_tiles`
    neither.
    """
    mask, blind = _sight(q_positions, view, causal, window, q.shape[1])
    added = bias(q_positions, view.positions, q.dtype).masked_fill(~mask, -torch.inf)
    grouped = view.k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, view.k, view.v, added, dropout, enable_gqa=grouped).masked_fill(blind, 0.0)


def choose_attend(bias: Bias, softmax: Softmax) -> Callable[..., Tensor]:
    """The fastest of the functions above that can add `bias` and take `softmax`; fused kernels know no sinks."""
    if softmax is not over_slots:
        return partial(attend_plainly, bias=bias, softmax=softmax)
    return attend if bias is no_bias else partial(attend_with_bias, bias=bias)


def _sight(q_positions: Tensor, view: KVView, causal: bool, window: int, n_heads: int) -> tuple[Tensor, Tensor]:
    """The mask for a fused kernel, (B or 1, H or 1, T, S), and the blind queries, (B or 1, H or 1, T, 1).

    A blind query is one that may not see any slot; the caller sets its output to 0.
    subtle: the softmax of a blind query is 0/0, and kernels differ in its result. So the mask lets it see every slot.
    """
    mask = visible(q_positions, view.positions, causal, window)  # (B or 1, G or 1, T, S)
    mask = mask if mask.shape[1] == 1 else _for_every_head(mask, n_heads)
    blind = ~mask.any(-1, keepdim=True)
    return mask | blind, blind


class Attention(nn.Module):
    """Multi-head attention. `forward` is self-attention with a cache; `look` over `show(memory)` is cross-attention.

    >>> attention = Attention(d_model=12, n_heads=3, n_kv_heads=1, d_head=4)  # all queries share one head of keys
    >>> attention(torch.randn(2, 5, 12)).shape
    torch.Size([2, 5, 12])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        d_head: int,
        *,
        bias: bool = False,
        causal: bool = True,
        window: int = 0,
        rotate: Rotate = no_rotation,
        qk_norm: Callable[[int], Callable[[Tensor], Tensor]] = NoNorm,
        dropout: float = 0.0,
        score_bias: Bias = no_bias,
        out_bias: bool | None = None,
        sinks: bool = False,
    ):
        """`rotate` turns queries and keys by their positions; `score_bias` is added to the scores (see `Alibi`).

        `out_bias`: whether the output projection has a bias; None: if the others have one. `sinks`: see `SinkSoftmax`.

        `qk_norm(d_head)` builds the norm of each query and key, applied before `rotate` (Dehghani et al. 2023).
        Raises ValueError if n_kv_heads does not divide n_heads.
        """
        super().__init__()
        if n_heads % n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {n_kv_heads}: expected a divisor of n_heads = {n_heads}; change one of the two"
            )
        self.n_heads, self.n_kv_heads, self.d_head = n_heads, n_kv_heads, d_head
        self.causal, self.window, self.rotate = causal, window, rotate
        self.dropout, self.score_bias = dropout, score_bias
        self.softmax: Softmax = SinkSoftmax(n_heads) if sinks else over_slots
        self.attend = choose_attend(score_bias, self.softmax)
        self.to_q = nn.Linear(d_model, n_heads * d_head, bias=bias)
        self.to_k = nn.Linear(d_model, n_kv_heads * d_head, bias=bias)
        self.to_v = nn.Linear(d_model, n_kv_heads * d_head, bias=bias)
        self.to_out = nn.Linear(n_heads * d_head, d_model, bias=bias if out_bias is None else out_bias)
        self.q_norm, self.k_norm = qk_norm(d_head), qk_norm(d_head)

    def forward(
        self,
        x: Tensor,
        positions: Positions | None = None,
        cache: KVCache = NO_CACHE,
        values: Tensor | None = None,
    ) -> Tensor:
        """Self-attention: x (B, T, D) at `positions`, over the tokens in the cache and x itself -> (B, T, D).

        By default there is no cache and every row is a text of T tokens: `Attention(...)(x)`. `values` (B, T, G K) are
        added to the values computed from x (see `value_embedding`).
        """
        if positions is None:
            positions = Positions(torch.arange(x.shape[1], device=x.device)[None], dense=True)
        q, k, v = self._project(x)
        if values is not None:
            v = v + _split(values, self.n_kv_heads)
        return self._look(q, positions.ids, cache.extend(self.k_norm(k), v, positions, self.rotate))

    def show(self, memory: Tensor, positions: Positions) -> KVView:
        """Keys and values of `memory` (B, S, D), computed once for a source text and used at every decoding step."""
        k, v = (_split(to(memory), self.n_kv_heads) for to in (self.to_k, self.to_v))
        return KVView(self.rotate(self.k_norm(k), positions.ids), v, positions.ids[:, None], positions.dense)

    def look(self, x: Tensor, positions: Positions, view: KVView) -> Tensor:
        """Attention with queries from x (B, T, D) over the keys and values of a view -> (B, T, D)."""
        return self._look(_split(self.to_q(x), self.n_heads), positions.ids, view)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries (B, H, T, K), keys and values (B, G, T, K) of x (B, T, D)."""
        H, G = self.n_heads, self.n_kv_heads
        return _split(self.to_q(x), H), _split(self.to_k(x), G), _split(self.to_v(x), G)

    def _look(self, q: Tensor, positions: Tensor, view: KVView) -> Tensor:
        q = self.rotate(self.q_norm(q), positions)
        out = self.attend(q, view, positions, self.causal, self.window, self.dropout if self.training else 0.0)
        view.observe(
            lambda q, positions: weigh(q, view, positions, self.causal, self.window, self.score_bias, self.softmax),
            q,
            positions,
        )
        return self.to_out(out.transpose(1, 2).flatten(2))  # (B, T, H, K) -> (B, T, H K)


def _split(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, H K) -> (B, H, T, K). Without einops, whose look-up of the pattern takes longer than the view."""
    B, T, width = x.shape
    return x.view(B, T, n_heads, width // n_heads).transpose(1, 2)


def _for_every_head(x: Tensor, n_heads: int) -> Tensor:
    """(B, G, ...) -> (B, H, ...): each group is repeated for the heads that share it."""
    return x if x.shape[1] == n_heads else x.repeat_interleave(n_heads // x.shape[1], dim=1)

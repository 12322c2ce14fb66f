"""Inputs of attention: every kind of view, sharing of heads, and window, with dimensions that all differ."""

import torch
from hypothesis import strategies as st

from minillm.cache.kv_cache import KVView
from minillm.constants import EMPTY
from minillm.layers.attention import attend_plainly

H, K = 6, 5

DENSE = ["whole text", "last tokens", "last token", "other text"]
RAGGED = ["slots of a row", "slots of a group", "nothing"]

VIEWS = [
    (kind, causal) for kind in DENSE + RAGGED for causal in (True, False) if (kind, causal) != ("other text", True)
]


def assert_rounded(road, question: tuple) -> None:
    """Assert that in bfloat16 an implementation equals the equation, with its gradients, up to rounding."""
    q, view, *rest = question
    rounded = [x.detach().bfloat16() for x in (q, view.k, view.v)]
    direction, results = torch.randn_like(q).bfloat16(), []
    for dtype, way in ((torch.bfloat16, road), (torch.float64, attend_plainly)):
        parts = [x.to(dtype).requires_grad_() for x in rounded]
        out = way(parts[0], KVView(*parts[1:], view.positions, view.dense), *rest)
        assert out.dtype == dtype
        results.append((out, *torch.autograd.grad((out * direction).sum(), parts)))
    for fast, slow in zip(*results, strict=True):
        assert (fast.double() - slow).abs().max() <= 0.04 * slow.abs().max().clamp(min=1)


@st.composite
def questions(draw, kind: str, causal: bool):
    """q (B, H, T, K), a view of S slots, the queries' positions, causal and window."""
    B, T, S, G = (
        draw(st.integers(1, 3)),
        draw(st.integers(2, 7)),
        draw(st.integers(2, 11)),
        draw(st.sampled_from([1, 2, 3, H])),
    )
    T = 1 if kind == "last token" else T
    S = {"whole text": T, "last tokens": T + S}.get(kind, S)
    window = draw(st.sampled_from([0, 0, 1, S - 1, S, S + 1])) if kind != "other text" else 0
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    if kind in DENSE:
        q_positions, k_positions = torch.arange(max(S - T, 0), max(S - T, 0) + T)[None], torch.arange(S)[None, None]
    else:
        groups = G if kind == "slots of a group" else 1
        q_positions = torch.randint(EMPTY, S + 2, (B, T), generator=g)
        k_positions = torch.randint(EMPTY, S, (B, groups, S), generator=g)
        k_positions = k_positions.where(torch.rand(k_positions.shape, generator=g) < 0.7, EMPTY)
        k_positions = k_positions * 0 + EMPTY if kind == "nothing" else k_positions
    q, k, v = (
        torch.randn(B, n, m, K, generator=g, dtype=torch.float64, requires_grad=True)
        for n, m in ((H, T), (G, S), (G, S))
    )
    return q, KVView(k, v, k_positions, kind in DENSE), q_positions, causal, window

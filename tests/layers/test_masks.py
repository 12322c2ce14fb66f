"""The mask rule equals three nested loops."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.layers.masks import visible


@given(st.data(), st.booleans(), st.integers(0, 10))
def test_a_query_sees_what_is_filled_not_later_and_inside_the_window(data, causal, window):
    B, G, T, S = (data.draw(st.integers(1, n)) for n in (3, 2, 5, 7))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    q, k = (torch.randint(-1, 10, shape, generator=generator) for shape in ((B, T), (B, G, S)))
    mask = visible(q, k, causal, window).expand(B, G, T, S).tolist()
    q, k = q.tolist(), k.tolist()
    for b in range(B):
        for g in range(G):
            for t in range(T):
                for s in range(S):
                    i, j = q[b][t], k[b][g][s]
                    assert mask[b][g][t][s] == (j >= 0 and (not causal or j <= i) and (not window or i - j < window))


@given(st.integers(1, 12), st.integers(1, 12))
def test_a_causal_window_of_w_shows_the_token_itself_and_w_minus_1_before_it(T, window):
    places = torch.arange(T)
    n_seen = visible(places[None], places[None, None], causal=True, window=window)[0, 0].sum(-1)
    assert n_seen.tolist() == [min(t + 1, window) for t in range(T)]


def test_an_empty_query_sees_nothing_under_the_causal_rule():
    assert not visible(torch.tensor([[-1]]), torch.arange(5)[None, None], causal=True).any()

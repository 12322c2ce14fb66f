"""N-gram embeddings: the preceding tokens are found for any positions; each pair and triple has its own row."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.kv_cache import NO_CACHE, KVView, Positions
from minillm.constants import EMPTY
from minillm.layers.ngram_embedding import NONE, NgramEmbedding, token_before
from tests.tiny import SHAPES, VOCAB, decoder, tokens

law = settings(max_examples=40, deadline=None, derandomize=True)


@law
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(1, 3),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_the_token_before_is_found_wherever_it_stands(text, n, n_queries, random):
    """Compare a view with slots in any order, some of them empty, with the text itself."""
    last = list(range(len(text)))[-n_queries:]
    slots = [(i, text[i]) for i in range(len(text))] + [(EMPTY, 3)] * 3
    random.shuffle(slots)
    places, read = (torch.tensor([column]) for column in zip(*slots, strict=True))
    expected = [text[i - n] if i >= n else NONE for i in last]
    scattered = KVView(read[:, None, :, None], read[:, None, :, None], places[:, None], False)
    assert token_before(scattered, torch.tensor([last]), n).tolist() == [expected]
    whole = torch.tensor([text])
    dense = KVView(whole[:, None, :, None], whole[:, None, :, None], torch.arange(len(text))[None, None], True)
    assert token_before(dense, torch.tensor([last]), n).tolist() == [expected]


def test_every_pair_and_every_triple_has_a_vector_of_its_own_where_there_are_rows_enough():
    V, rows = 3, set()
    layer = NgramEmbedding(10_007, 2, V)
    kept = layer._row
    layer._row = lambda number: (rows.update(number.flatten().tolist()), kept(number))[1]
    every = torch.cartesian_prod(*[torch.arange(V)] * 3)
    layer(every, Positions(torch.arange(3)[None], True), NO_CACHE)
    # pairs and triples: at the beginning of a text, one token after it, and inside
    assert len(rows) == V + V**2 + V + V**2 + V**3
    assert len({int(kept(torch.tensor(row))) for row in rows}) == len(rows)


def test_a_vector_is_that_of_the_pair_plus_that_of_the_triple():
    layer, text = NgramEmbedding(101, 5, 7).double(), torch.tensor([[4, 6, 2]])
    out = layer(text, Positions(torch.arange(3)[None], True), NO_CACHE)
    pair = 3 * 8 + 7  # token 2 after 6, each one higher, for the beginning is 0
    rows = [int(layer._row(torch.tensor(number))) for number in (pair, pair * 8 + 5)]
    assert torch.equal(out[0, 2], layer.table.weight[rows[0]] + layer.table.weight[rows[1]])


def test_the_past_is_told_and_the_future_is_not():
    model, text = decoder(**SHAPES["n-gram embeddings"]), tokens(1, 9)
    other = text.clone()
    other[0, 4] = (other[0, 4] + 1) % VOCAB
    same = (model(text)[0] == model(other)[0]).all(-1)[0]
    assert same.tolist() == [True] * 4 + [False] * 5

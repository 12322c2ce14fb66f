"""Rollback: every state keeps what its `rollback` promises, for every model and every cache."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.build_cache import COMPLETE, FORGETFUL
from minillm.cache.fixed import FixedCache
from minillm.cache.paged import PagedCache
from minillm.constants import EMPTY
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.speed.captured import Captured
from tests import tiny
from tests.decoding.test_generate import MODELS

LAST = 32  # tokens that "truncate" promises to take back
CONTEXT = 160
LONG = tiny.decoder(context_length=CONTEXT, n_layers=1)
TRANSLATOR = (
    EncoderDecoder(EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, context_length=CONTEXT), tiny.VOCAB)
    .double()
    .eval()
)
CACHES = COMPLETE | {"paged": partial(PagedCache, n_pages=40, page_size=16), "fixed": partial(FixedCache, CONTEXT)}
STATES = {
    **{name: (LONG, partial(LONG.start, cache=make)) for name, make in CACHES.items()},
    **{name: (LONG, partial(LONG.start, cache=partial(make, 12))) for name, make in FORGETFUL.items()},
    "captured": (Captured(LONG), Captured(LONG).start),
    "translator": (TRANSLATOR, lambda n: TRANSLATOR.start(n, source=torch.arange(5)[None].expand(n, -1))),
    **{name: (MODELS[name], MODELS[name].start) for name in ("ngram", "lstm", "gru", "rnn", "remembers")},
}
NONE = set(FORGETFUL)


def ragged(lengths: list[int], seed: int) -> torch.Tensor:
    tokens = torch.randint(7, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return tokens.where(torch.arange(tokens.shape[1]) >= tokens.shape[1] - torch.tensor(lengths)[:, None], EMPTY)


@pytest.mark.parametrize("name", STATES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 31, 33, 62, 63, 64]), min_size=2, max_size=2), min_size=1, max_size=4),
    st.data(),
)
def test_a_state_that_declares_a_way_back_has_it_after_any_reads(name, reads, data):
    """truncate: removes up to 32 last tokens of each row; copy: the copy does not change; none: neither works."""
    model, start = STATES[name]
    state, longest = start(2), MODELS["remembers"].context_length if name == "remembers" else CONTEXT
    with torch.inference_mode():
        for i, lengths in enumerate(reads):
            if max(lengths) and max(int(n) + m for n, m in zip(state.lengths, lengths, strict=True)) < longest:
                copied = state.copy() if state.rollback == "copy" else None
                before = state.lengths.clone()
                model(ragged(lengths, i), state)
                assert copied is None or torch.equal(copied.lengths, before)
        assert state.rollback == ("none" if name in NONE else "copy" if hasattr(state, "copy") else "truncate")
        if state.rollback == "truncate":
            kept = torch.tensor([data.draw(st.integers(max(0, int(n) - LAST), int(n))) for n in state.lengths])
            state.truncate(kept)
            assert torch.equal(state.lengths, kept)
            logits, _ = model(torch.tensor([[1], [2]]), state)
            assert logits.isfinite().all()


@pytest.mark.parametrize("name", FORGETFUL)
def test_what_declares_no_way_back_refuses_one(name):
    model, start = STATES[name]
    state = start(1)
    with torch.inference_mode():
        model(ragged([33], 0), state)
    with pytest.raises(ValueError, match="expected"):
        state.truncate(torch.tensor([32]))

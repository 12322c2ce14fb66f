"""Written-out attention equals the equation, and is used only where it is faster."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.cache.kv_cache import KVView
from minillm.layers.attention import attend, attend_plainly
from minillm.speed import written_out_attention
from minillm.speed.written_out_attention import attend_in_training, attend_written_out
from tests.layers.questions import VIEWS, assert_rounded, questions
from tests.tiny import assert_equal


@settings(max_examples=20)
@given(question=questions("whole text", True))
def test_it_is_the_equation_and_so_are_its_gradients(question):
    q, view, positions, causal, _ = question
    direction, results = torch.randn_like(q), []
    for out in (attend_written_out(q, view.k, view.v), attend_plainly(q, view, positions, causal)):
        results.append((out, *torch.autograd.grad((out * direction).sum(), (q, view.k, view.v))))
    for fast, slow in zip(*results, strict=True):
        assert_equal(fast, slow)


@pytest.mark.parametrize(("kind", "causal"), VIEWS)
@settings(max_examples=15)
@given(data=st.data())
def test_in_bfloat16_it_is_the_equation_up_to_rounding_in_every_view(kind, causal, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written_out_attention, "has_bfloat16", lambda device: True)
        assert_rounded(attend_in_training, data.draw(questions(kind, causal)))


@pytest.mark.parametrize(
    ("length", "training", "dtype", "native"),
    itertools.product((5, 6), (True, False), ("bfloat16", "float32"), (True, False)),
)
def test_weights_are_stored_only_for_gradients_of_short_texts_in_native_bfloat16(
    length, training, dtype, native, monkeypatch
):
    held, real = [], attend_written_out
    monkeypatch.setattr(written_out_attention, "LONGEST", 5)
    monkeypatch.setattr(written_out_attention, "has_bfloat16", lambda device: native)
    monkeypatch.setattr(written_out_attention, "attend_written_out", lambda *x: held.append(True) or real(*x))
    q, k, v = torch.randn(3, 2, 3, length, 4).to(getattr(torch, dtype))
    view = KVView(k, v, torch.arange(length)[None, None], dense=True)
    with torch.set_grad_enabled(training):
        out = attend_in_training(q, view, torch.arange(length)[None], causal=True)
    assert bool(held) == (training and native and length == 5 and dtype == "bfloat16")
    torch.testing.assert_close(out, attend(q, view, torch.arange(length)[None], causal=True), rtol=0, atol=0.02)

"""Next-token prediction: no shift here, and results do not depend on how a batch is cut."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import Windows
from minillm.objectives.next_token import next_token
from tests.tiny import VOCAB, assert_equal, decoder, tokens


class Answers(nn.Module):
    """A model that gives nearly all probability to `answer(tokens)`."""

    head = None

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, tokens: torch.Tensor, state: None = None) -> tuple[torch.Tensor, None]:
        return 1000.0 * nn.functional.one_hot(self.answer(tokens), VOCAB), None


def test_loss_is_the_sum_over_explicit_places_of_minus_log_probability():
    model, text = decoder(), tokens(3, 8)
    targets = text[:, 1:].clone()
    targets[0, 2], targets[2, :] = IGNORE, IGNORE
    logprobs, total = model(text[:, :-1])[0].log_softmax(-1), 0.0
    for b in range(3):
        for t in range(7):
            if targets[b, t] != IGNORE:
                total -= logprobs[b, t, int(text[b, t + 1])]
    loss = next_token(model, Batch(text[:, :-1], targets))
    assert_equal(loss.total, total)
    assert loss.count == 2 * 7 - 1


def test_on_text_that_counts_the_sure_next_number_is_free_and_a_copy_or_the_one_after_next_is_dear():
    ring = TokenStream(np.append(np.arange(VOCAB), 0), np.array([0]), n_bytes=VOCAB)
    batch = Windows(ring, context_length=7, batch_size=3, seed=0, whole_documents=False).batch(0)
    losses = [float(next_token(Answers(lambda x, n=n: (x + n) % VOCAB), batch).total) for n in (0, 1, 2)]
    assert losses == [21_000, 0, 21_000]


def test_a_model_that_copies_what_it_reads_is_right_where_the_targets_are_what_it_read():
    text = tokens(3, 7)
    assert next_token(Answers(lambda x: x), Batch(text, text)).total == 0


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.sets(st.integers(1, 4)), ignored=st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_gradients_do_not_depend_on_how_a_batch_is_cut(seed, cuts, ignored):
    model, text = decoder(n_layers=1), tokens(5, 7, seed)
    targets = tokens(5, 7, seed + 1).masked_fill(
        torch.rand(5, 7, generator=torch.Generator().manual_seed(seed)) < ignored, IGNORE
    )

    def gradients(edges: list[int]) -> list[torch.Tensor]:
        model.zero_grad()
        losses = [next_token(model, Batch(text[a:b], targets[a:b])) for a, b in pairwise(edges)]
        (sum(loss.total for loss in losses) / max(sum(loss.count for loss in losses), 1)).backward()
        return [p.grad for p in model.parameters()]

    for whole, parts in zip(gradients([0, 5]), gradients([0, *sorted(cuts), 5]), strict=True):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_padding_adds_nothing_to_sum_count_or_gradient():
    model, text, targets = decoder(), tokens(2, 7), tokens(2, 7, seed=1)
    results = []
    for pad in (0, 4):
        model.zero_grad()
        empty = torch.full((2, pad), -1)
        loss = next_token(model, Batch(torch.cat([text, empty], 1), torch.cat([targets, empty * 0 + IGNORE], 1)))
        loss.total.backward()
        results.append([loss.total, loss.count, *(p.grad for p in model.parameters())])
    for alone, padded in zip(*results, strict=True):
        assert_equal(alone, padded)


def test_autocast_to_bfloat16_leaves_the_loss_in_float32():
    model, text = decoder().float(), tokens(3, 7)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next_token(model, Batch(text, text))
        assert model(text)[0].dtype == torch.bfloat16
    loss.total.backward()
    assert loss.total.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert loss.total.item() == pytest.approx(next_token(model, Batch(text, text)).total.item(), rel=0.03)

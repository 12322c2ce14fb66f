"""Validation, tested on models whose loss is known."""

import math
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minillm.datasets.batch import Batch
from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import evaluation_batches
from minillm.evaluation.validation import LEAK_NATS, Leak, Validation, sample_rows
from minillm.objectives.next_token import next_token
from tests.tiny import VOCAB, decoder


def stream_of(lengths: list[int], seed: int = 0) -> TokenStream:
    """Random documents; id 0 ends each."""
    g = np.random.default_rng(seed)
    ids = [0, *(i for n in lengths for i in [*g.integers(1, VOCAB, n).tolist(), 0])]
    starts = np.cumsum([0, *(n + 1 for n in lengths)])[:-1]
    return TokenStream(np.array(ids, np.uint8), starts, n_bytes=3 * sum(lengths) + 1)


class Sure(nn.Module):
    """Gives t + 1, the token after t, a logit `lead` nats above all others."""

    def __init__(self, lead: float):
        super().__init__()
        self.lead = nn.Parameter(torch.tensor(lead, dtype=torch.float64))

    def forward(self, tokens: torch.Tensor, state: None = None) -> tuple[torch.Tensor, None]:
        return self.lead * nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB), None


def counting(n: int) -> list[Batch]:
    """n targets, each of them its token plus 1."""
    tokens = torch.arange(n)[None] % VOCAB
    return [Batch(tokens, (tokens + 1) % VOCAB)]


@pytest.mark.parametrize("T", [1, 5, 100])
def test_a_uniform_model_has_loss_ln_v_and_that_many_bits_in_each_byte(T):
    stream = stream_of([7, 0, 23, 11])
    n_targets = len(stream.ids) - 1
    metrics = Validation(evaluation_batches(stream, T, 3), next_token, n_bytes=stream.n_bytes, source_nats=None)(
        Sure(0.0)
    )
    assert metrics["val_loss"] == pytest.approx(math.log(VOCAB))
    assert metrics["bits_per_byte"] == pytest.approx(n_targets * math.log2(VOCAB) / (3 * 41 + 1))
    assert set(metrics) == {"val_loss", "bits_per_byte"}


@settings(max_examples=25)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(1, 9), st.integers(0, 9))
def test_the_size_of_batches_their_order_and_padding_change_nothing(lengths, batch_size, pad):
    stream, model = stream_of(lengths), decoder(n_layers=1)
    one_by_one = evaluation_batches(stream, 7, 1)
    others = [
        Batch(nn.functional.pad(b.tokens, (0, pad), value=-1), nn.functional.pad(b.targets, (0, pad), value=-100))
        for b in reversed(evaluation_batches(stream, 7, batch_size))
    ]
    one, other = (Validation(b, next_token, n_bytes=stream.n_bytes, source_nats=1.0) for b in (one_by_one, others))
    assert one(model) == pytest.approx(other(model), rel=1e-12)


def test_regret_is_what_is_lost_to_the_source():
    n, source_loss = 50, 2.0
    metrics = Validation(counting(n), next_token, n_bytes=1, source_nats=n * source_loss)(Sure(0.0))
    assert metrics["source_loss"] == source_loss
    assert metrics["regret"] == pytest.approx(math.log(VOCAB) - source_loss)


def test_the_source_itself_does_not_leak_and_a_little_luck_is_no_leak():
    n = 50
    source = n * math.log(VOCAB)
    assert Validation(counting(n), next_token, n_bytes=1, source_nats=source)(Sure(0.0))["regret"] == pytest.approx(0)
    lucky = Validation(counting(n), next_token, n_bytes=1, source_nats=source + LEAK_NATS - 0.01)
    assert lucky(Sure(0.0))["regret"] < 0


def test_a_model_that_knows_the_answers_better_than_the_source_is_a_leak():
    n = 50
    with pytest.raises(Leak, match=r"regret = -3\.1.* nats per token .*training text must have leaked"):
        Validation(counting(n), next_token, n_bytes=1, source_nats=n * math.log(VOCAB))(Sure(30.0))
    with pytest.raises(Leak):
        Validation(counting(n), next_token, n_bytes=1, source_nats=n * math.log(VOCAB) + LEAK_NATS + 0.01)(Sure(0.0))


@pytest.mark.parametrize("error", [0.0, 1.5])
def test_a_source_that_was_estimated_may_be_beaten_by_six_of_its_standard_errors_more(error):
    n = 50
    for excess, leaks in ((-0.01, False), (0.01, True)):
        source = n * math.log(VOCAB) + LEAK_NATS + 6 * error + excess
        validation = Validation(counting(n), next_token, n_bytes=1, source_nats=source, source_error=error)
        with pytest.raises(Leak) if leaks else nullcontext():
            validation(Sure(0.0))


@pytest.mark.parametrize("training", [True, False])
def test_validation_leaves_mode_weights_and_gradients_as_they_were_and_uses_no_dropout(training):
    model = decoder(dropout=0.5).train(training)
    before = [p.clone() for p in model.parameters()]
    validation = Validation(counting(20), next_token, n_bytes=1, source_nats=None)
    assert validation(model) == validation(model)
    assert model.training == training
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


class Rows(NamedTuple):
    """A batch type with other fields; only its rows matter."""

    name: torch.Tensor
    width: torch.Tensor


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=1, max_size=9), st.integers(1, 120))
def test_a_sample_is_every_kth_row_across_batches_and_as_large_as_asked_for(shapes, n_tokens):
    batches, n_rows = [], 0
    for rows, width in shapes:
        names = torch.arange(n_rows, n_rows + rows)[:, None].expand(rows, width)
        batches.append(Rows(names, torch.full((rows,), width)))
        n_rows += rows
    sample = sample_rows(batches, n_tokens)
    names = [int(row[0]) for batch in sample for row in batch.name]
    widths = [int(width) for batch in sample for width in batch.width]
    every = [width for rows, width in shapes for _ in range(rows)]
    total = sum(every)
    k = math.ceil(total / n_tokens)
    assert names == list(range(0, n_rows, k)) and widths == [every[name] for name in names]
    assert all(type(batch) is Rows and len(batch.name) for batch in sample)
    assert (sample is batches) == (total <= n_tokens)


@pytest.mark.parametrize("n_tokens", [1, 13, 40, 10_000])
def test_a_sampled_validation_is_the_loss_of_its_rows_and_claims_no_more(n_tokens):
    stream, model = stream_of([7, 3, 23, 11, 5, 2, 31]), decoder(n_layers=1)
    whole = Validation(evaluation_batches(stream, 7, 3), next_token, n_bytes=stream.n_bytes, source_nats=1.0)
    sampled, again = whole.sampled(n_tokens), whole.sampled(n_tokens)
    found = sampled(model)
    assert found == again(model), "the same rows each time, or figures could not be compared"
    with torch.no_grad():
        losses = [next_token(model, batch) for batch in sample_rows(whole.batches, n_tokens)]
    assert found["val_loss"] == pytest.approx(float(sum(x.total for x in losses) / sum(x.count for x in losses)))
    assert found == (whole(model) if n_tokens == 10_000 else {"val_loss": found["val_loss"]})

"""Counting as a training step: each token once, for any rows, and each batch scored before it is counted."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.batch import Batch
from minillm.datasets.single_pass import SinglePass
from minillm.datasets.tokens import TokenStream
from minillm.models.ngram import Ngram, NgramConfig
from minillm.objectives.next_token import next_token
from minillm.training.counting import CountingStep
from tests.tiny import assert_equal

V = 7


def stream_of(documents):
    """A stream of texts that each end with id 0."""
    ids = [0, *(i for document in documents for i in [*document, 0])]
    starts = np.cumsum([0, *(len(document) + 1 for document in documents)])[:-1]
    return TokenStream(np.array(ids, np.uint8), starts, n_bytes=1)


def count(documents, order, context_length, batch_size):
    step = CountingStep(Ngram(NgramConfig(order=order), V).double(), next_token)
    rows = SinglePass(stream_of(documents), context_length, batch_size, order - 1)
    logged = [step(rows.batch(i)) for i in range(rows.n_steps)]
    return step, logged


@settings(max_examples=25)
@given(
    documents=st.lists(st.lists(st.integers(1, V - 1), max_size=20), min_size=1, max_size=5),
    order=st.integers(1, 4),
    fresh=st.integers(1, 9),
    batch_size=st.integers(1, 4),
)
def test_what_is_counted_is_each_ngram_of_each_document_however_the_text_is_cut(documents, order, fresh, batch_size):
    step, logged = count(documents, order, fresh + order - 1, batch_size)
    assert sum(row["tokens"] for row in logged) == sum(len(document) + 1 for document in documents)
    for m in range(1, order + 1):
        texts = [[0, *document, 0] for document in documents]
        slow = Counter(tuple(text[end - m : end]) for text in texts for end in range(max(2, m), len(text) + 1))
        grams, counts = step.model.counts.table(m)
        assert {tuple(gram): n for gram, n in zip(grams.tolist(), counts.tolist(), strict=True)} == slow


def test_a_batch_is_guessed_before_it_is_counted_and_known_afterwards():
    step = CountingStep(Ngram(NgramConfig(order=2), V).double(), next_token)
    batch = Batch(torch.tensor([[1, 2, 3]] * 3), torch.tensor([[2, 3, 1]] * 3))
    assert step(batch) == {"loss": pytest.approx(math.log(V)), "tokens": 9}
    assert step(batch)["loss"] < 0.7
    loss = next_token(step.model, batch)
    assert float(loss.total / loss.count) < 0.5


def test_a_step_that_is_saved_goes_on_as_if_it_had_not_been():
    documents = [[1, 2, 3, 4, 5], [2, 3, 4], [1, 1, 6]]
    rows = SinglePass(stream_of(documents), 4, 1, 2)
    whole, _ = count(documents, 3, 4, 1)
    first, second = (CountingStep(Ngram(NgramConfig(order=3), V).double(), next_token) for _ in range(2))
    for i in range(2):
        first(rows.batch(i))
    second.load_state_dict(first.state_dict())
    for i in range(second.n_steps, rows.n_steps):
        second(rows.batch(i))
    tokens = torch.tensor([[0, 1, 2, 3, 6, 2, 3]])
    assert second.n_steps == whole.n_steps
    assert_equal(second.model(tokens)[0], whole.model(tokens)[0])

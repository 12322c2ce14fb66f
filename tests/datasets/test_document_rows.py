"""Documents as rows: every token of every document is a target once an epoch, and no row has two documents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import IGNORE
from minillm.datasets.buckets import BucketedBatches, Buckets, each_row_once
from minillm.datasets.document_rows import DocumentRows
from minillm.datasets.tokens import TokenStream

END = 0
documents = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=13), min_size=1, max_size=17)


def stream_of(texts):
    ids, starts = [END], []
    for text in texts:
        starts.append(len(ids) - 1)
        ids += [*text, END]
    return TokenStream(np.array(ids, np.int16), np.array(starts, np.int64), n_bytes=len(ids))


@given(documents, st.integers(1, 15), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_has_each_target_once_after_the_tokens_of_its_own_document(texts, context_length, batch_size, seed):
    stream = stream_of(texts)
    rows = DocumentRows(stream, context_length)
    training = BucketedBatches(rows, Buckets(rows.lengths(), batch_size, seed))
    expected = []
    for text in texts:
        whole = [END, *text, END]
        expected += [tuple(whole[i : i + context_length + 1]) for i in range(0, len(whole) - 1, context_length)]
    epoch = [training.batch(step) for step in range(training.steps_per_epoch)]
    for batches in (epoch, each_row_once(rows, batch_size)):
        assert sorted(spans_of(batches, context_length)) == sorted(expected)


def spans_of(batches, context_length):
    """The tokens of each row with its last target, without what fills it up."""
    found = []
    for batch in batches:
        assert batch.tokens.shape == batch.targets.shape and batch.tokens.shape[1] <= context_length
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            n = len(targets) - targets.count(IGNORE)
            assert targets[n:] == [IGNORE] * (len(targets) - n)
            assert tokens[1:n] == targets[: n - 1]
            found.append((*tokens[:n], targets[n - 1]))
    return found


def test_rows_of_a_batch_have_similar_lengths():
    texts = [[1] * (1 + i % 50) for i in range(3200)]
    rows = DocumentRows(stream_of(texts), 64)
    training = BucketedBatches(rows, Buckets(rows.lengths(), 10, seed=0))
    batches = [training.batch(step) for step in range(training.steps_per_epoch)]
    padding = sum(int((batch.targets == IGNORE).sum()) for batch in batches)
    assert padding < 0.1 * sum(batch.targets.numel() for batch in batches)

"""Laws of windows: each row once an epoch, batches depend on the step alone, evaluation has each target once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import Windows, evaluation_batches, row_starts


def stream_of(lengths: list[int]) -> TokenStream:
    """A stream whose ids are their own places (the last one equals the first); `lengths`: documents with their END."""
    ring = sum(lengths)
    ids = np.append(np.arange(ring), 0).astype(np.uint16)
    return TokenStream(ids, np.cumsum([0, *lengths])[:-1].astype(np.int64), n_bytes=ring)


lengths = st.lists(st.integers(1, 23), min_size=1, max_size=40)
widths = st.integers(1, 13)
batch_sizes = st.integers(1, 11)
modes = st.booleans()


def windows_of(stream, width, size, seed=0, order="epochs", whole=True) -> Windows:
    return Windows(stream, width, size, seed, order, whole)


def rows_of(windows: Windows, n_rows: int) -> list[int]:
    """The places where the first rows begin, in the order in which they are dealt."""
    steps = range(-(-n_rows // windows.batch_size))
    return torch.cat([windows.batch(step).tokens[:, 0] for step in steps])[:n_rows].tolist()


@given(lengths, widths, batch_sizes, st.integers(0, 3))
def test_each_epoch_deals_every_row_of_whole_documents_exactly_once(lengths, width, size, seed):
    stream = stream_of([*lengths, width])
    windows, rows = windows_of(stream, width, size, seed), row_starts(stream, width).tolist()
    dealt = rows_of(windows, 3 * len(rows))
    for epoch in range(3):
        assert sorted(dealt[epoch * len(rows) : (epoch + 1) * len(rows)]) == rows
    assert windows.rows_per_epoch == len(rows)


@given(st.integers(0, 200), widths, batch_sizes, st.integers(0, 3))
def test_each_epoch_of_one_text_counts_no_target_twice_and_leaves_out_less_than_a_row(extra, width, size, seed):
    ring = width + extra
    windows = windows_of(stream_of([ring]), width, size, seed, whole=False)
    n_rows = windows.rows_per_epoch
    steps = range(-(-3 * n_rows // size))
    targets = torch.cat([windows.batch(step).targets for step in steps])
    for epoch in range(3):
        dealt = targets[epoch * n_rows : (epoch + 1) * n_rows].flatten().tolist()
        assert len(set(dealt)) == len(dealt) == n_rows * width > ring - width


@given(
    lengths, widths, batch_sizes, st.sampled_from(["epochs", "random"]), modes, st.lists(st.integers(0, 50), max_size=8)
)
def test_a_batch_depends_on_the_seed_and_the_step_alone(lengths, width, size, order, whole, steps):
    stream = stream_of([*lengths, width])
    walked = windows_of(stream, width, size, 7, order, whole)
    for step in steps:
        fresh = windows_of(stream, width, size, 7, order, whole).batch(step)
        again = walked.batch(step)
        assert torch.equal(fresh.tokens, again.tokens)
        assert torch.equal(fresh.targets, again.targets)


@given(lengths, widths, batch_sizes, st.sampled_from(["epochs", "random"]), modes, st.integers(0, 50))
def test_a_target_is_the_id_after_its_token_and_the_ring_closes_at_the_last_end(
    lengths, width, size, order, whole, step
):
    stream = stream_of([*lengths, width])
    tokens, targets = windows_of(stream, width, size, 0, order, whole).batch(step)
    assert tokens.shape == targets.shape == (size, width)
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.is_contiguous() and targets.is_contiguous()
    assert torch.equal(targets, (tokens + 1) % (len(stream.ids) - 1))
    assert torch.equal(tokens[:, 1:], targets[:, :-1])


@given(lengths, widths)
def test_every_document_that_fits_is_whole_in_one_row_and_rows_open_mid_way_only_in_longer_ones(lengths, width):
    stream = stream_of(lengths)
    rows = row_starts(stream, width).tolist()
    nexts = [*rows[1:], len(stream.ids) - 1]
    assert all(row < following <= row + width for row, following in zip(rows, nexts, strict=True))
    documents = list(zip(stream.starts.tolist(), lengths, strict=True))
    for start, length in documents:
        if length <= width:
            assert any(row <= start and start + length <= following for row, following in zip(rows, nexts, strict=True))
    for row in rows:
        assert any(start == row or (start < row < start + length and length > width) for start, length in documents)


@given(lengths, widths)
def test_no_row_could_have_reached_a_later_document(lengths, width):
    stream = stream_of(lengths)
    rows, borders = row_starts(stream, width).tolist(), {*stream.starts.tolist(), len(stream.ids) - 1}
    for row, following in zip(rows, [*rows[1:], len(stream.ids) - 1], strict=True):
        assert not borders & set(range(following + 1, row + width + 1))


def assert_counts_every_target_once(stream, width, size, whole):
    batches = evaluation_batches(stream, width, size, whole)
    ring = len(stream.ids) - 1
    counted = []
    for tokens, targets in batches:
        assert tokens.shape == targets.shape and tokens.shape[1] == width and 1 <= tokens.shape[0] <= size
        assert torch.equal(tokens == EMPTY, targets == IGNORE)
        real = targets != IGNORE
        assert torch.equal(targets[real], (tokens[real] + 1) % ring)
        assert torch.equal(real, real.cummin(dim=1).values), "a row is real tokens, then nothing"
        counted += targets[real].tolist()
    assert counted == stream.ids[1:].tolist()
    assert all(batch.tokens.shape[0] == size for batch in batches[:-1])


@given(st.lists(st.integers(1, 23), max_size=40), widths, batch_sizes, modes)
def test_an_evaluation_counts_every_target_once_and_in_order(lengths, width, size, whole):
    assert_counts_every_target_once(stream_of(lengths), width, size, whole)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 13, 14, 21, 35])
def test_an_evaluation_counts_every_target_once_at_the_lengths_where_windows_break(length, whole):
    assert_counts_every_target_once(stream_of([length] if length else []), width=7, size=3, whole=whole)
    assert_counts_every_target_once(stream_of([1] * length), width=7, size=3, whole=whole)


def test_epochs_differ_in_order_and_offset_and_seeds_differ_too():
    stream = stream_of([200])
    windows, n = windows_of(stream, 7, 5, whole=False), 200 // 7
    dealt = rows_of(windows, 2 * n)
    assert dealt[:n] != dealt[n:]
    assert {row % 7 for row in dealt[:n]} != {row % 7 for row in dealt[n:]}
    whole = rows_of(windows_of(stream_of([7] * 30), 7, 5), 60)
    assert whole[:30] != sorted(whole[:30]) and whole[:30] != whole[30:]
    assert rows_of(windows_of(stream, 7, 5, seed=1, whole=False), n) != dealt[:n]


@pytest.mark.parametrize("order", ["epochs", "random"])
def test_every_place_of_one_text_is_a_target_equally_often_its_ends_included(order):
    ring, width, size, n_steps = 23, 5, 4, 4000
    windows = windows_of(stream_of([ring]), width, size, 0, order, whole=False)
    counts = torch.bincount(
        torch.cat([windows.batch(step).targets.flatten() for step in range(n_steps)]), minlength=ring
    )
    expected = n_steps * size * width / ring
    assert counts.sub(expected).abs().max() < 0.1 * expected


def test_random_rows_of_whole_documents_are_all_drawn_and_begin_where_rows_begin():
    stream = stream_of([3, 5, 2, 7, 11, 4])
    windows = windows_of(stream, 7, 5, 0, "random")
    assert set(rows_of(windows, 500)) == set(row_starts(stream, 7).tolist())


def test_the_steps_of_an_epoch_are_the_batches_that_hold_all_its_rows():
    stream = stream_of([7] * 11)
    assert [windows_of(stream, 7, size).steps_per_epoch for size in (1, 5, 11, 12)] == [11, 3, 1, 1]


@pytest.mark.parametrize("whole", [True, False])
def test_a_text_shorter_than_a_window_is_refused_with_both_numbers(whole):
    Windows(stream_of([7]), 7, 2, 0, "epochs", whole).batch(0)
    with pytest.raises(ValueError, match=r"the text = 7 tokens: expected at least 8.*context_length"):
        Windows(stream_of([6]), 7, 2, 0, "epochs", whole)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_ids_of_every_width_come_out_as_they_went_in(dtype):
    top = np.iinfo(dtype).max
    ids = np.array([0, top, 1, top - 1, 2, 0], dtype)
    stream = TokenStream(ids, np.array([0]), 4)
    assert evaluation_batches(stream, 5, 1)[0].targets.tolist() == [[top, 1, top - 1, 2, 0]]
    assert windows_of(stream, 5, 1).batch(0).tokens.tolist() == [[0, top, 1, top - 1, 2]]

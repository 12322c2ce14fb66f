"""Laws of lanes: rows continue from step to step or are marked as not continuing, and an epoch has each row once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.lanes import Lanes
from minillm.datasets.windows import row_starts
from tests.datasets.test_windows import stream_of

lengths = st.lists(st.integers(1, 23), min_size=1, max_size=40)
widths = st.integers(1, 13)


def lanes_of(lengths: list[int], width: int, size: int, seed: int = 0, whole: bool = True) -> Lanes:
    """Lanes over a stream with enough rows."""
    return Lanes(stream_of([*lengths, width * (size + 1)]), width, size, seed, whole)


@settings(max_examples=40)
@given(lengths, widths, st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_a_row_that_continues_begins_with_the_target_that_came_last_and_with_no_document(
    lengths, width, size, whole, seed
):
    lanes = lanes_of(lengths, width, size, seed, whole)
    openings, ring = set(lanes._openings.tolist()), len(lanes._ring)
    before = lanes.batch(0)
    assert not before.continues.any()
    for step in range(1, 2 * lanes.steps_per_epoch + 1):
        batch = lanes.batch(step)
        follows = batch.tokens[:, 0] == before.targets[:, -1]  # every id is its place in the stream
        opens = torch.tensor([int(place) % ring in openings for place in batch.tokens[:, 0]])
        fresh = step % lanes.steps_per_epoch == 0
        assert torch.equal(batch.continues, follows & ~opens & (not fresh))
        assert whole or fresh or batch.continues.all()
        assert torch.equal(batch.targets, (batch.tokens + 1) % ring)
        before = batch


@settings(max_examples=40)
@given(lengths, widths, st.integers(1, 5), st.booleans())
def test_an_epoch_deals_no_row_twice_and_leaves_out_fewer_than_a_batch(lengths, width, size, whole):
    lanes = lanes_of(lengths, width, size, 0, whole)
    n = lanes.steps_per_epoch
    assert lanes.rows_per_epoch - n * size in range(size)
    for epoch in range(3):
        firsts = torch.cat([lanes.batch(step).tokens[:, 0] for step in range(epoch * n, (epoch + 1) * n)]).tolist()
        assert len(set(firsts)) == n * size
        if whole:
            assert set(firsts) <= set(row_starts(stream_of([*lengths, width * (size + 1)]), width).tolist())


@given(lengths, st.booleans(), st.lists(st.integers(0, 50), max_size=8))
def test_a_batch_depends_on_the_seed_and_the_step_alone(lengths, whole, steps):
    walked = lanes_of(lengths, 5, 3, 7, whole)
    for step in steps:
        for a, b in zip(lanes_of(lengths, 5, 3, 7, whole).batch(step), walked.batch(step), strict=True):
            assert torch.equal(a, b)


def test_what_is_left_out_changes_from_epoch_to_epoch():
    for whole, stream in ((True, stream_of([5] * 11)), (False, stream_of([57]))):
        lanes = Lanes(stream, 5, 3, 0, whole)
        n = lanes.steps_per_epoch
        epochs = [
            frozenset(torch.cat([lanes.batch(e * n + s).tokens.flatten() for s in range(n)]).tolist()) for e in range(8)
        ]
        assert len(set(epochs)) > 2
        assert len(frozenset.union(*epochs)) == len(stream.ids) - 1


def test_a_text_with_fewer_rows_than_lanes_is_refused_with_both_numbers():
    Lanes(stream_of([35]), 7, 5, 0, False)
    with pytest.raises(
        ValueError, match=r"the text = 5 rows of model\.context_length = 7: expected at least train\.batch_size = 6"
    ):
        Lanes(stream_of([35]), 7, 6, 0, False)
    with pytest.raises(ValueError, match=r"the text = 6 tokens: expected at least 8"):
        Lanes(stream_of([5]), 7, 1, 0, False)


def test_a_short_document_is_read_from_nothing_and_a_long_one_is_carried_to_its_end():
    lanes = Lanes(stream_of([4, 17, 3]), 5, 1, 0)
    rows = [lanes.batch(step) for step in range(lanes.steps_per_epoch)]
    dealt = {int(row.tokens[0, 0]): bool(row.continues[0]) for row in rows}
    opening = int(rows[0].tokens[0, 0])
    assert dealt == {0: False, 4: False, 9: True, 14: True, 19: True} | {opening: False}

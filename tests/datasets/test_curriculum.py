"""A curriculum: every row once an epoch, batches of about equal size, and short rows first in the first epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.curriculum import Curriculum

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=83).map(np.array)
shares = st.sampled_from((0.0, 0.15, 0.5, 1.0))


def epoch(plan, number):
    n = plan.steps_per_epoch
    return [plan.rows(step).tolist() for step in range(number * n, (number + 1) * n)]


@given(lengths, st.integers(1, 7), st.integers(0, 5), shares)
def test_every_row_comes_once_an_epoch_in_batches_of_at_most_as_many_tokens(lengths, batch_size, seed, short_first):
    plan = Curriculum(lengths, batch_size, seed, short_first)
    n_tokens = batch_size * lengths.mean()
    for number in range(2):
        batches = epoch(plan, number)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or len(batch) * max(lengths[batch]) <= n_tokens for batch in batches)


@given(lengths, st.integers(1, 7), st.integers(0, 5), shares)
def test_the_first_epoch_begins_with_the_shortest_rows(lengths, batch_size, seed, short_first):
    plan = Curriculum(lengths, batch_size, seed, short_first)
    batches = epoch(plan, 0)
    n_short = round(short_first * len(batches))
    short, others = (
        [lengths[row] for batch in part for row in batch] for part in (batches[:n_short], batches[n_short:])
    )
    assert max(short, default=0) <= min(others, default=60)


@given(lengths, st.integers(0, 5), shares)
def test_a_batch_is_a_function_of_the_seed_and_the_step(lengths, seed, short_first):
    plan, again = (Curriculum(lengths, 3, seed, short_first) for _ in range(2))
    steps = [*range(2 * plan.steps_per_epoch)]
    rows = [plan.rows(step).tolist() for step in steps]
    assert [again.rows(step).tolist() for step in reversed(steps)] == rows[::-1]


def test_batches_are_shuffled_within_the_short_ones_within_the_others_and_in_later_epochs():
    lengths = np.arange(1, 2001)
    plan = Curriculum(lengths, 10, seed=0, short_first=0.3)
    longest = [[max(lengths[batch]) for batch in epoch(plan, number)] for number in range(2)]
    n_short = round(0.3 * plan.steps_per_epoch)
    for part in (longest[0][:n_short], longest[0][n_short:], longest[1]):
        falls = np.mean(np.diff(part) < 0)
        assert 0.3 < falls < 0.7
    assert longest[0] != longest[1] and max(longest[1][:n_short]) > max(longest[0][:n_short])


def test_little_of_a_batch_is_padding_and_rows_of_equal_length_are_mixed():
    lengths = np.random.default_rng(0).integers(20, 400, 3000)
    batches = epoch(Curriculum(lengths, 16, seed=1, short_first=0.2), 1)
    padded = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert padded < 1.02 * lengths.sum()
    of_one_length = Curriculum(np.full(100, 7), 10, seed=1, short_first=0.0)
    assert any(np.ptp(batch) > 50 for batch in epoch(of_one_length, 0))

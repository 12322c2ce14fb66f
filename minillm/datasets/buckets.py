"""Buckets: batches of rows of similar length, so that little of a batch is padding.

The rows of an epoch are shuffled, cut into buckets of 32 batches, sorted by length within each bucket, and cut into
batches, which are shuffled again. So the batches stay random, and each is a pure function of (seed, step).
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

Order = Literal["epochs", "random"]

N_BATCHES = 32  # batches of a bucket


class Buckets:
    """The rows of each training batch, without end.

    Order "epochs" gives every row once before any comes again; the last batch of an epoch may be smaller. Order
    "random" draws every row from (seed, step).
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, order: Order = "epochs"):
        """`lengths` (n, k): sizes by which rows are sorted; the last column counts most."""
        self.lengths, self.batch_size, self.seed, self.order = lengths, batch_size, seed, order
        self._latest: tuple[int, list[np.ndarray]] = (-1, [])  # the latest epoch and its batches, kept for speed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The rows of the batch of a step, counted from 0."""
        if self.order == "random":
            return np.random.default_rng((self.seed, step)).integers(len(self.lengths), size=self.batch_size)
        epoch, place_in_epoch = divmod(step, self.steps_per_epoch)
        if self._latest[0] != epoch:
            self._latest = epoch, self._shuffled(epoch)
        return self._latest[1][place_in_epoch]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        rows, n = generator.permutation(len(self.lengths)), self.batch_size
        batches = []
        for i in range(0, len(rows), n * N_BATCHES):
            bucket = rows[i : i + n * N_BATCHES]
            bucket = bucket[np.lexsort(self.lengths[bucket].T)]
            batches += [bucket[j : j + n] for j in range(0, len(bucket), n)]
        return [batches[i] for i in generator.permutation(len(batches))]


class Rows(Protocol):
    """Texts that can be rows of a batch, such as sentence pairs, conversations or documents."""

    def lengths(self) -> np.ndarray:
        """Sizes by which the rows are sorted, (n, k); the last column counts most."""
        ...

    def batch(self, rows: Sequence[int]) -> Any:
        """The batch of these rows, filled up to the longest."""
        ...


class Plan(Protocol):
    """Which rows each training batch has, without end, as a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every row occurs once."""
        ...

    def rows(self, step: int) -> np.ndarray:
        """The rows of the batch of a step, counted from 0."""
        ...


class BucketedBatches:
    """Training batches of rows of similar length, without end: those of a plan, such as `Buckets`."""

    def __init__(self, rows: Rows, plan: Plan):
        self.rows, self.plan = rows, plan

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def batch(self, step: int) -> Any:
        """The batch of a step, counted from 0."""
        return self.rows.batch(self.plan.rows(step))


def each_row_once(rows: Rows, batch_size: int) -> list[Any]:
    """Batches of every row once, sorted by length, the same on every call."""
    return [rows.batch(chosen) for chosen in sorted_batches(rows.lengths(), batch_size)]


def sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The rows of each batch of one pass, sorted by length, the same on every call."""
    rows = np.lexsort(lengths.T)
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]

"""Contiguous batches: row b of a step continues row b of the step before, for a model that carries its state.

The rows of `windows`, in the order of the text, are divided into B lanes, each a stretch of text; row b of every batch
comes from lane b. Where a row does not continue the one before, `continues` is false and the carried state must be
reset: at the start of an epoch, and where a row opens a new document. This is the data of truncated backpropagation
through time (Williams and Peng 1990). A batch is a pure function of the step. Read before: `windows`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import Windows


class ContiguousBatch(NamedTuple):
    """A `Batch` that says of each row whether it continues the same row of the batch before."""

    tokens: Tensor  # (B, T) long
    targets: Tensor  # (B, T) long
    continues: Tensor  # (B,) bool


class Lanes(Windows):
    """Training batches without end, in the order of the text.

    An epoch has every row once, except for fewer than B rows that do not fill all lanes evenly; which ones differs from
    epoch to epoch, because each one starts at another place of the text. Raises ValueError for a text with fewer rows
    than a batch.
    """

    def __init__(
        self, stream: TokenStream, context_length: int, batch_size: int, seed: int, whole_documents: bool = True
    ):
        super().__init__(stream, context_length, batch_size, seed, whole_documents=whole_documents)
        if len(self._rows) < batch_size:
            raise ValueError(
                f"the text = {len(self._rows)} rows of model.context_length = {context_length}: expected at least "
                f"train.batch_size = {batch_size}, one for each lane; lower one of the two or give more text"
            )
        self._openings = stream.starts if whole_documents else np.array([], np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which every lane gives all of its rows."""
        return len(self._rows) // self.batch_size

    def batch(self, step: int) -> ContiguousBatch:
        """The batch of a step, counted from 0."""
        batch = super().batch(step)
        continues = np.zeros(self.batch_size, bool)
        if step % self.steps_per_epoch:
            starts, length = self._starts(step), len(self._span) - 1
            continues = (starts == self._starts(step - 1) + length) & ~np.isin(starts, self._openings)
        return ContiguousBatch(*batch, torch.from_numpy(continues))

    def _starts_in_epochs(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        generator = np.random.default_rng((self.seed, epoch))
        rows = np.roll(self._rows, -generator.integers(len(self._rows))) if len(self._openings) else self._rows
        lanes = rows[: self.batch_size * self.steps_per_epoch].reshape(self.batch_size, -1)
        return lanes[:, place] + generator.integers(self._n_offsets)

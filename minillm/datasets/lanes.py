"""Rows that go on where they stopped, for a model that carries its state from batch to batch.

The rows of `windows.py`, in the order of the text, are dealt to B lanes, each a stretch of its own. Row b of a step comes from lane b, so
that it goes on where row b of the step before stopped. Where it does not, `continues` is false, and the state that was carried
has to go: at the start of an epoch, and wherever a row opens with a new document. Batches are pure functions of the step here too.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import Windows


class ContiguousBatch(NamedTuple):
    """A `Batch` whose rows know whether they go on where the same row of the batch before stopped."""

    tokens: Tensor  # (B, T) long
    targets: Tensor  # (B, T) long
    continues: Tensor  # (B,) bool


class Lanes(Windows):
    """An endless supply of training batches.

    An epoch deals out every row once but those, fewer than B, that do not fill all lanes evenly; which they are changes from epoch to
    epoch, since each one begins at another place of the text. Raises ValueError for a text that has fewer rows than a batch.
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
        """The steps in which every lane deals out its rows."""
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
        return rows[: self.batch_size * self.steps_per_epoch].reshape(self.batch_size, -1)[
            :, place
        ] + generator.integers(self._n_offsets)

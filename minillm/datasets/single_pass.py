"""Batches that read a text exactly once, in its order: for a model that counts (an n-gram table).

A row lies within one document, from the END before it to the END after it. A document that is longer than a row
continues in the next row, which repeats the last `overlap` tokens as context; their targets were counted before, so
they are IGNORE. Each id of the stream except the first is a target once, with at least `overlap` tokens of its document
before it where there are so many. Counts therefore do not depend on how the text is cut. Read before: `windows`.
"""

import numpy as np
import torch

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.tokens import TokenStream


class SinglePass:
    """`n_steps` batches of training rows."""

    def __init__(self, stream: TokenStream, context_length: int, batch_size: int, overlap: int):
        """Raises ValueError if rows are not longer than the overlap."""
        fresh = context_length - overlap  # targets that a row counts
        if fresh < 1:
            raise ValueError(
                f"model.context_length = {context_length}: expected more than model.order - 1 = {overlap}; raise it"
            )
        borders = np.append(stream.starts, len(stream.ids) - 1)
        n_rows = -(-np.diff(borders) // fresh)  # of each document
        first_rows = np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        self._document_starts, self._document_ends = np.repeat(borders[:-1], n_rows), np.repeat(borders[1:], n_rows)
        self._starts = self._document_starts + fresh * (np.arange(len(first_rows)) - first_rows)
        self._places = np.arange(-overlap, fresh)
        self._ids, self.batch_size = np.asarray(stream.ids), batch_size

    @property
    def n_steps(self) -> int:
        """Number of steps that read the text once; the last batch may have fewer rows."""
        return -(-len(self._starts) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0. Raises ValueError after the end of the text."""
        if step >= self.n_steps:
            raise ValueError(
                f"step {step + 1}: expected at most {self.n_steps}, which read the whole text; lower train.max_steps"
            )
        rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
        starts = self._starts[rows, None]
        places = starts + self._places
        there = (places >= self._document_starts[rows, None]) & (places < self._document_ends[rows, None])
        tokens = np.where(there, self._ids.take(places, mode="clip").astype(np.int64), EMPTY)
        targets = np.where(there & (places >= starts), self._ids.take(places + 1, mode="clip").astype(np.int64), IGNORE)
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))

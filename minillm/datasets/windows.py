"""Batches cut out of a token stream, each a pure function of the step, so a resumed training needs only one integer.

The stream END d0 END ... dn END ends as it begins, so it is read as a ring: the first document follows the last. A row
holds T tokens, and its targets are the same tokens shifted by one place; training batches are shifted nowhere else.

One long text is cut every T tokens, at another offset in each epoch. Of many documents, every row begins with the END
before a document, so that no training row starts in the middle of a story; a document that does not end within a row is
repeated from its start by the next row, and only one that is longer than a row continues in the next.
"""

from bisect import bisect_right
from typing import Literal

import numpy as np
import torch

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.tokens import TokenStream


class Windows:
    """Training batches without end.

    Order "epochs" gives every row once before any comes again, in an order drawn from (seed, epoch); an epoch may end
    in the middle of a batch. Order "random" draws every row from (seed, step). Raises ValueError for a text shorter
    than one window.
    """

    def __init__(
        self,
        stream: TokenStream,
        context_length: int,
        batch_size: int,
        seed: int,
        order: Literal["epochs", "random"] = "epochs",
        whole_documents: bool = True,
    ):
        n_tokens = len(stream.ids)
        if n_tokens <= context_length:
            raise ValueError(
                f"the text = {n_tokens} tokens: expected at least {context_length + 1}, one window and the target "
                "after it; lower model.context_length or give more text"
            )
        self.context_length, self.batch_size, self.seed = context_length, batch_size, seed
        self._ring = np.asarray(stream.ids)[:-1]  # without the last END, which equals the first
        self._span = np.arange(context_length + 1)
        if whole_documents:
            self._rows, self._n_offsets = row_starts(stream, context_length), 1
        else:
            self._rows, self._n_offsets = np.arange(len(self._ring) // context_length) * context_length, len(self._ring)
        self._starts = {"epochs": self._starts_in_epochs, "random": self._starts_at_random}[order]
        self._latest = (-1, self._rows)  # the latest epoch and its order, kept for speed

    @property
    def row_starts(self) -> np.ndarray:
        """The places in the stream where the rows of the first epoch begin, in increasing order; of many documents,
        those of every epoch."""
        return self._rows

    @property
    def rows_per_epoch(self) -> int:
        return len(self._rows)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps that give every row once; the last one may share its batch with the next epoch."""
        return -(-len(self._rows) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0: tokens (B, T) and their targets, none of them EMPTY."""
        return self.rows_at(self.starts(step))

    def starts(self, step: int) -> np.ndarray:
        """The places in the stream where the rows of a step begin, (B,)."""
        return self._starts(step)

    def rows_at(self, starts: np.ndarray) -> Batch:
        """The rows that begin at these places."""
        ids = self._ring.take(starts[:, None] + self._span, mode="wrap").astype(np.int64)
        ids = torch.from_numpy(ids)  # (B, T + 1)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def _starts_in_epochs(self, step: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), len(self._rows))
        return np.concatenate(
            [self._shuffled(epoch)[places[epochs == epoch]] for epoch in range(epochs[0], epochs[-1] + 1)]
        )

    def _shuffled(self, epoch: int) -> np.ndarray:
        if self._latest[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._latest = (epoch, generator.permutation(self._rows) + generator.integers(self._n_offsets))
        return self._latest[1]

    def _starts_at_random(self, step: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, step))
        rows = self._rows[generator.integers(len(self._rows), size=self.batch_size)]
        return rows + generator.integers(self._n_offsets, size=self.batch_size)


def row_starts(stream: TokenStream, context_length: int) -> np.ndarray:
    """Starts of the rows of T tokens: the last document that begins within T of the row before, or else T further on.

    >>> ids = np.array([0, 7, 8, 0, 9, 0])
    >>> row_starts(TokenStream(ids, starts=np.array([0, 3]), n_bytes=3), context_length=3).tolist()
    [0, 3]
    """
    borders = [*stream.starts.tolist(), len(stream.ids) - 1]
    rows = [0]
    while rows[-1] < borders[-1]:
        reach = rows[-1] + context_length
        border = borders[bisect_right(borders, reach) - 1]
        rows.append(border if border > rows[-1] else reach)
    return np.array(rows[:-1], np.int64)


def evaluation_batches(
    stream: TokenStream, context_length: int, batch_size: int, whole_documents: bool = True
) -> list[Batch]:
    """One pass over a stream, the same on every call: each of its ids but the first is a target exactly once.

    A row counts its targets up to the start of the next row; the rest of it is EMPTY and IGNORE. The last batch may
    have fewer rows.
    """
    n_targets = len(stream.ids) - 1
    starts = row_starts(stream, context_length) if whole_documents else np.arange(0, n_targets, context_length)
    ends = np.append(starts, n_targets)[1:]
    ids, batches = np.asarray(stream.ids), []
    for b in range(0, len(starts), batch_size):
        places = starts[b : b + batch_size, None] + np.arange(context_length)
        counted = places < ends[b : b + batch_size, None]
        tokens = np.where(counted, ids.take(places, mode="clip").astype(np.int64), EMPTY)
        targets = np.where(counted, ids.take(places + 1, mode="clip").astype(np.int64), IGNORE)
        batches.append(Batch(torch.from_numpy(tokens), torch.from_numpy(targets)))
    return batches

"""Batches cut out of a token stream, each a pure function of the step: all that a resumed training must know is one integer.

The stream END d0 END ... dn END ends as it begins, so it is read as a ring: after the last document comes the first. A row
holds T tokens and its targets are the same tokens one place on; this is the only place where that shift is made.

One long text is cut every T tokens, at another offset in each epoch. Of many documents, every row begins with a document's
END, so that no training row opens in the middle of a story; a document that does not end within a row is begun again by the
next row, and only one that is longer than a row goes on mid-way.
"""

from bisect import bisect_right
from typing import Literal

import numpy as np
import torch

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.tokens import TokenStream


class Windows:
    """An endless supply of training batches.

    Order "epochs" deals out every row once before any row comes again, in an order that (seed, epoch) decides; an epoch may end
    in the middle of a batch. Order "random" draws every row by (seed, step) alone. Raises ValueError for a text that is
    shorter than one window.
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
                f"the text = {n_tokens} tokens: expected at least {context_length + 1}, one window and the target after it; "
                f"lower model.context_length or give more text"
            )
        self.batch_size, self.seed = batch_size, seed
        self._ring = np.asarray(stream.ids)[:-1]  # without the last END, which is the first one again
        self._span = np.arange(context_length + 1)
        if whole_documents:
            self._rows, self._n_offsets = row_starts(stream, context_length), 1
        else:
            self._rows, self._n_offsets = np.arange(len(self._ring) // context_length) * context_length, len(self._ring)
        self._starts = {"epochs": self._starts_in_epochs, "random": self._starts_at_random}[order]
        self._dealt = (
            -1,
            self._rows,
        )  # the epoch whose order was needed last, and that order: remembered for speed only

    @property
    def rows_per_epoch(self) -> int:
        return len(self._rows)

    @property
    def steps_per_epoch(self) -> int:
        """The steps it takes to deal out every row once, the last one perhaps shared with the next epoch."""
        return -(-len(self._rows) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0: (B, T) tokens and their targets, none of them empty."""
        ids = self._ring.take(self._starts(step)[:, None] + self._span, mode="wrap").astype(np.int64)
        ids = torch.from_numpy(ids)  # (B, T + 1)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def _starts_in_epochs(self, step: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * self.batch_size, (step + 1) * self.batch_size), len(self._rows))
        return np.concatenate(
            [self._deal(epoch)[places[epochs == epoch]] for epoch in range(epochs[0], epochs[-1] + 1)]
        )

    def _deal(self, epoch: int) -> np.ndarray:
        if self._dealt[0] != epoch:
            generator = np.random.default_rng((self.seed, epoch))
            self._dealt = (epoch, generator.permutation(self._rows) + generator.integers(self._n_offsets))
        return self._dealt[1]

    def _starts_at_random(self, step: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, step))
        rows = self._rows[generator.integers(len(self._rows), size=self.batch_size)]
        return rows + generator.integers(self._n_offsets, size=self.batch_size)


def row_starts(stream: TokenStream, context_length: int) -> np.ndarray:
    """Where the rows of T tokens begin: at the last document that begins within T of the row before, or T further on."""
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
    """One pass over a stream, always the same, in which each of its ids but the first is a target exactly once.

    Each row counts up to where the next one begins; the rest of it is EMPTY and IGNORE. The last batch may have fewer rows.
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

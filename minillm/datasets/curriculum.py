"""A curriculum: a model trains on short documents before the others (Bengio et al. 2009; Press et al. 2021).

In a short text there are few places to attend to, so a model soon learns to look up what a question asks for, and then
does so in longer texts too. All batches have about the same number of tokens, so those of short documents have more
rows. Compare `python train.py --config worlds-base` with the same and `--task.short_first 0`. Read before: `buckets`.
"""

import numpy as np


class Curriculum:
    """The rows of each training batch, without end: every row once an epoch, short ones first in the first epoch."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, short_first: float):
        """`lengths` (n,), in tokens. A batch has about as many tokens as `batch_size` rows of mean length.

        `short_first`: share of the first epoch, in batches, that has the shortest rows.
        """
        self.seed, generator = seed, np.random.default_rng(seed)
        rows = generator.permutation(len(lengths))
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        self.batches = cut(rows, lengths, batch_size * float(lengths.mean()))
        self.n_short = round(short_first * len(self.batches))
        self._latest: tuple[int, np.ndarray] = (-1, rows)  # the latest epoch and the order of its batches

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    def rows(self, step: int) -> np.ndarray:
        """The rows of the batch of a step, counted from 0."""
        epoch, place_in_epoch = divmod(step, self.steps_per_epoch)
        if self._latest[0] != epoch:
            self._latest = epoch, self._shuffled(epoch)
        return self.batches[self._latest[1][place_in_epoch]]

    def _shuffled(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.batches))
        is_short = order < (self.n_short if epoch == 0 else 0)
        return np.concatenate([order[is_short], order[~is_short]])


def cut(rows: np.ndarray, lengths: np.ndarray, n_tokens: float) -> list[np.ndarray]:
    """Cut rows, sorted by length, into batches of at most `n_tokens` with their padding, or of one row.

    >>> cut(np.arange(5), np.array([2, 2, 3, 4, 9]), n_tokens=6)
    [array([0, 1]), array([2]), array([3]), array([4])]
    """
    batches, first = [], 0
    for i, row in enumerate(rows):
        if i > first and (i + 1 - first) * lengths[row] > n_tokens:
            batches.append(rows[first:i])
            first = i
    return [*batches, rows[first:]]

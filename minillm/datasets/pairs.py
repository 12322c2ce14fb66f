"""Pairs of sentences and their translations as batches for an encoder-decoder (Sutskever et al. 2014).

    source   d END          tokens   END d          targets   d END

A space precedes every sentence, so that its first word is the same token as inside a sentence. Rows of similar length
are batched together, as in Vaswani et al. 2017, so that little of a batch is padding. Combinations of words are held
out, not sentences: every sentence with a held-out combination leaves the training part. Read before: `batch`,
`windows`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import padded
from minillm.datasets.buckets import BucketedBatches, Buckets, Order, each_row_once
from minillm.datasets.split import Splits, unit_hash
from minillm.datasets.tokens import TokenStream


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str
    combinations: frozenset[str]  # word combinations in it; it is for training only if all of them are


def spaced(sentence: str) -> str:
    """The form in which a sentence is tokenized: one space before it.

    >>> spaced("je suis")
    ' je suis'
    """
    return " " + sentence.strip()


class PairBatch(NamedTuple):
    """Tensors of type long, EMPTY for padding, IGNORE for targets that are not counted."""

    source: Tensor  # (B, S)
    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)


class Pairs:
    """Tokenized pairs: document i of one stream is the translation of document i of the other."""

    def __init__(self, source: TokenStream, target: TokenStream):
        self.source, self.target = source, target
        self.ids, self.n_bytes = target.ids, target.n_bytes  # of the translations, which the decoder writes
        self.source_borders, self.target_borders = (
            np.append(stream.starts, len(stream.ids) - 1) for stream in (source, target)
        )

    def __len__(self) -> int:
        return len(self.target.starts)

    def lengths(self) -> np.ndarray:
        """Tokens of each target and of its source, with the END after it: (n, 2)."""
        return np.stack([np.diff(self.target_borders), np.diff(self.source_borders)], axis=1)

    def batch(self, rows: Sequence[int]) -> PairBatch:
        """The batch of these pairs, padded on the right to the longest."""
        sources = [self._framed(self.source, self.source_borders, row) for row in rows]
        targets = [self._framed(self.target, self.target_borders, row) for row in rows]
        return PairBatch(
            source=padded([ids[1:] for ids in sources], EMPTY),
            tokens=padded([ids[:-1] for ids in targets], EMPTY),
            targets=padded([ids[1:] for ids in targets], IGNORE),
        )

    def _framed(self, stream: TokenStream, borders: np.ndarray, row: int) -> np.ndarray:
        """The ids END d END of one document."""
        return stream.ids[borders[row] : borders[row + 1] + 1]


class PairBatches(BucketedBatches):
    """`BucketedBatches` of pairs. Raises ValueError for a pair that is longer than the context."""

    def __init__(self, pairs: Pairs, context_length: int, batch_size: int, seed: int, order: Order = "epochs"):
        check_lengths(pairs, context_length)
        super().__init__(pairs, Buckets(pairs.lengths(), batch_size, seed, order))


def evaluation_pairs(pairs: Pairs, context_length: int, batch_size: int) -> list[PairBatch]:
    """Batches of every pair once, sorted by length, the same on every call. Raises ValueError as `PairBatches`."""
    check_lengths(pairs, context_length)
    return each_row_once(pairs, batch_size)


def check_lengths(pairs: Pairs, context_length: int) -> None:
    """Raise ValueError for a pair that is longer than the context."""
    longest = int(pairs.lengths().max())
    if longest > context_length:
        raise ValueError(
            f"the longest sentence = {longest} tokens: expected at most model.context_length = {context_length}; "
            "raise it"
        )


def split_pairs(pairs: Sequence[Pair], val_fraction: float, test_fraction: float) -> Splits:
    """Split pairs by a hash of their combinations, so that no held-out combination is seen in training.

    A hash assigns each combination to training, validation or test. A pair is for test if any of its combinations is,
    else for validation if any is. Each held-out part has a sentence once, however often it was drawn. Raises ValueError
    if training or validation would be empty.
    """
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"data.val_fraction + data.test_fraction = {val_fraction + test_fraction:g}: expected less than 1"
        )
    known = {name: unit_hash(name) for name in sorted({name for pair in pairs for name in pair.combinations})}
    parts: Splits = Splits([], [], [])
    for pair in pairs:
        u = [known[name] for name in pair.combinations]
        test, val = any(val_fraction <= x < val_fraction + test_fraction for x in u), any(x < val_fraction for x in u)
        (parts.test if test else parts.val if val else parts.train).append(pair)
    for part, name in ((parts.train, "train"), (parts.val, "validate")):
        if not part:
            raise ValueError(
                f"{len(pairs)} pairs: expected some to {name} on; "
                f"give more, or change data.val_fraction = {val_fraction:g}"
            )
    return Splits(parts.train, list(dict.fromkeys(parts.val)), list(dict.fromkeys(parts.test)))


def read_pairs(path: Path, text: str) -> list[Pair]:
    """Read the pairs of a text: source, tab, target on each line. Raises ValueError with the line."""
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        source, *targets = (part.strip() for part in line.split("\t"))
        if len(targets) != 1 or not source or not targets[0]:
            raise ValueError(
                f"{path}, line {number}: expected a sentence, a tab and its translation; write source<TAB>target"
            )
        pairs.append(Pair(source, targets[0], frozenset([source])))
    return pairs

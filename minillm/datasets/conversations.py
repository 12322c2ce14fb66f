"""Conversations as batches for instruction tuning (Ouyang et al. 2022): every answer is learned, nothing else.

    tokens    END <|user|>  Where is she  <|assistant|>  In   the  garden  <|turn|>
    targets   -   -         -     -   -   In             the  garden  <|turn|>  -

A row is one conversation, so no text sees another; rows of similar length are batched together, so that little is
padding. Which tokens are learned is known from the rendering. A conversation that is longer than the context keeps its
beginning; if that has no answer, it is dropped, and both are counted. Read before: `batch`, `buckets`,
`tokenizers/role_template.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch, padded
from minillm.tokenizers.role_template import Rendering


class Cuts(NamedTuple):
    """Conversations that a context length has changed."""

    n_cut: int  # they lost their end
    n_dropped: int  # no learned token was left

    def __str__(self) -> str:
        told = [f"{self.n_cut:,} conversations are longer than the context and lost their end"] * bool(self.n_cut)
        told += [f"{self.n_dropped:,} had no answer within it and were dropped"] * bool(self.n_dropped)
        return "; ".join(told)


class Conversations:
    """Tokenized conversations, with a mark at every token that is learned."""

    def __init__(self, renderings: Sequence[Rendering], n_bytes: int, end_id: int):
        """`n_bytes`: UTF-8 bytes of all messages. `end_id` fills rows up; causal models never see what follows."""
        self.n_bytes, self.end_id = n_bytes, end_id
        sizes = np.array([len(rendering.tokens) for rendering in renderings], np.int64)
        self.borders = np.concatenate([[0], np.cumsum(sizes)])
        self.ids = np.concatenate([np.asarray(rendering.tokens, np.int32) for rendering in renderings])
        self.learned = np.concatenate([np.asarray(rendering.learned, bool) for rendering in renderings])

    def __len__(self) -> int:
        return len(self.borders) - 1

    def lengths(self) -> np.ndarray:
        """Input tokens of each row: (n, 1)."""
        return np.diff(self.borders)[:, None] - 1

    def batch(self, rows: Sequence[int]) -> Batch:
        """The batch of these conversations, filled up on the right to the longest."""
        spans = [slice(self.borders[row], self.borders[row + 1]) for row in rows]
        targets = [np.where(self.learned[span], self.ids[span], IGNORE)[1:] for span in spans]
        return Batch(padded([self.ids[span][:-1] for span in spans], self.end_id), padded(targets, IGNORE))


def cut_to(renderings: Sequence[Rendering], context_length: int) -> tuple[list[Rendering], Cuts]:
    """The first `context_length` + 1 tokens of each conversation; those with nothing to learn in them are dropped.

    The last token is only a target, so this many fit a context.
    """
    n = context_length + 1
    cut = [Rendering(tokens[:n], learned[:n]) for tokens, learned in renderings]
    kept = [rendering for rendering in cut if any(rendering.learned)]
    n_cut = sum(len(rendering.tokens) > n for rendering in renderings)
    return kept, Cuts(n_cut, len(cut) - len(kept))


def everything_learned(rendering: Rendering) -> Rendering:
    """A rendering of which every token but the first is learned, questions too."""
    return Rendering(rendering.tokens, [False] + [True] * (len(rendering.tokens) - 1))

"""Next-sentence prediction: pairs of texts, and whether the second continues the first (Devlin et al. 2019, BERT).

    END first half END second half END        segments 0 0 0 0 1 1 1 1

Half of the second halves are exchanged for those of other rows, as a function of (seed, step). Names, places and
earlier statements give the answer away. (Liu et al. 2019, RoBERTa, found that masked tokens alone teach as much.) END
stands where BERT has [CLS] and [SEP]; a "sentence" is any stretch of text, as in the paper. Read before: `masking`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.masking import Masking


class SegmentBatch(NamedTuple):
    """Pairs of texts with masked tokens."""

    tokens: Tensor  # (B, T) long, EMPTY for padding
    segments: Tensor  # (B, T) long: 0 in the first text, 1 in the second
    targets: Tensor  # (B, T) long: the masked tokens, IGNORE elsewhere
    follows: Tensor  # (B,) long: 1 if the second text continues the first, 0 if not, IGNORE if there is none


def pair_up(tokens: Tensor, end_id: int, *seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (B, T >= 5) that begin with END -> tokens (B, T), segments (B, T), follows (B,).

    Each row loses its last two tokens, to make room for two more END. A single row keeps its own second half.

    >>> tokens, segments, follows = pair_up(torch.tensor([[9, 1, 2, 3, 4, 5, 6, 7]]), 9, 0)
    >>> tokens.tolist(), segments.tolist(), follows.tolist()
    ([[9, 1, 2, 3, 9, 4, 5, 9]], [[0, 0, 0, 0, 0, 1, 1, 1]], [1])
    """
    generator, (B, T) = np.random.default_rng(seed), tokens.shape
    half = T // 2
    own = torch.from_numpy(generator.random(B) < 0.5) if B > 1 else torch.ones(B, dtype=torch.bool)
    other = (torch.arange(B) + torch.from_numpy(generator.integers(1, max(B, 2), size=B))) % B
    second = tokens[:, half : T - 2]
    second = second.where(own[:, None], second[other])
    there = (second >= 0).any(1) & (tokens[:, half] >= 0)  # a row that ends in its first half has no second
    border = torch.full((B, 1), end_id)
    paired = torch.cat([tokens[:, :half], border, second, border], dim=1)
    paired[~there, half:] = EMPTY
    segments = (torch.arange(T) > half).long().expand(B, T)
    return paired, segments, own.long().masked_fill(~there, IGNORE)


def masked_pairs(masking: Masking, tokens: Tensor, *seed: int) -> SegmentBatch:
    """Pairs of texts with masked tokens, a pure function of rows and seed."""
    paired, segments, follows = pair_up(tokens, masking.end_id, *seed, 0)
    masked = masking(paired, *seed, 1)
    return SegmentBatch(masked.tokens, segments, masked.targets, follows)

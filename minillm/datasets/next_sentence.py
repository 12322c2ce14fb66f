"""Pairs of texts, and the question whether the second goes on where the first stops (Devlin et al. 2019).

    END first half END second half END        segments 0 0 0 0 1 1 1 1

Half of the second halves are exchanged for those of other rows, as a function of (seed, step). The answer is found in what holds a
text together: names, places, what has been said. (Liu et al. 2019, RoBERTa, found that blanks alone teach as much.)
END stands where BERT has [CLS] and [SEP]. Read `masking` before; "sentence" means any stretch of text, as in the paper.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.masking import Masking


class SegmentBatch(NamedTuple):
    """Pairs with blanks in them."""

    tokens: Tensor  # (B, T) long, EMPTY for padding
    segments: Tensor  # (B, T) long: 0 in the first text, 1 in the second
    targets: Tensor  # (B, T) long: what stood in the blanks, IGNORE elsewhere
    follows: Tensor  # (B,) long: 1 where the second text goes on from the first, 0 where it is another's, IGNORE where there is none


def pair_up(tokens: Tensor, end_id: int, *seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (B, T >= 5) that begin with END -> tokens (B, T), segments (B, T), follows (B,). A single row keeps its own second half.

    To make room for two more END, each row loses its last two tokens.
    """
    generator, (B, T) = np.random.default_rng(seed), tokens.shape
    half = T // 2
    own = torch.from_numpy(generator.random(B) < 0.5) if B > 1 else torch.ones(B, dtype=torch.bool)
    other = (torch.arange(B) + torch.from_numpy(generator.integers(1, max(B, 2), size=B))) % B
    second = tokens[:, half : T - 2]
    second = second.where(own[:, None], second[other])
    there = (second >= 0).any(1) & (tokens[:, half] >= 0)  # a row that stops before its half has nothing to go on with
    border = torch.full((B, 1), end_id)
    paired = torch.cat([tokens[:, :half], border, second, border], dim=1)
    paired[~there, half:] = EMPTY
    segments = (torch.arange(T) > half).long().expand(B, T)
    return paired, segments, own.long().masked_fill(~there, IGNORE)


def masked_pairs(masking: Masking, tokens: Tensor, *seed: int) -> SegmentBatch:
    """Pairs with blanks, a pure function of rows and seed."""
    paired, segments, follows = pair_up(tokens, masking.end_id, *seed, 0)
    blanked = masking(paired, *seed, 1)
    return SegmentBatch(blanked.tokens, segments, blanked.targets, follows)

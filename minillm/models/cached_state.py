"""The state of every model that attends: how much each row has read, and one KV cache a layer.

All of it is in the caches but the lengths, so that rows are reordered and tokens are taken back layer by layer. Read
`language_model` and `cache/kv_cache.py` before this.
"""

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVCache
from minillm.models.language_model import Rollback


class CachedState:
    """See `State` in `language_model`."""

    def __init__(
        self, batch_size: int, caches: list[KVCache], device: torch.device, context_length: int, relative: bool
    ):
        """context_length: positions that the model has. relative: whether it only compares them, so that a cache may count its own.

        Raises ValueError for caches that count positions for a model that does not compare them, or more positions than
        it has.
        """
        self.span = caches[0].span
        if self.span is not None and not relative:
            raise ValueError(
                "cache: expected one that leaves positions alone, since this model adds them to its tokens and cannot renumber them; "
                "take another cache, or a model of rotary or alibi positions"
            )
        if self.span is not None and self.span >= context_length:
            raise ValueError(
                f"budget = {self.span}: expected less than model.context_length = {context_length}; lower it"
            )
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.caches = caches
        self.rollback: Rollback = "truncate" if all(cache.truncates for cache in caches) else "none"
        self.context_length = context_length if self.span is None else None

    @property
    def places(self) -> Tensor:
        """The position of the next token of each row, (B,) long."""
        return self.lengths if self.span is None else self.lengths.clamp(max=self.span)

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `State.reorder`."""
        self.lengths = self.lengths[rows]
        for cache in self.caches:
            cache.reorder(rows, since)

    def truncate(self, lengths: Tensor) -> None:
        """See `State.truncate`."""
        if bool((lengths > self.lengths).any()):
            raise ValueError(f"lengths = {lengths.tolist()}: expected at most the tokens read, {self.lengths.tolist()}")
        for cache in self.caches:
            cache.truncate(lengths)
        self.lengths = lengths.clone()

    def nbytes(self) -> int:
        """See `State.nbytes`."""
        return sum(cache.nbytes() for cache in self.caches)

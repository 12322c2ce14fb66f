"""The state of a transformer: the number of tokens that each row has read, and one KV cache for each layer.

To reorder rows or take tokens back, the state calls the cache of each layer. Read before: `language_model`,
`cache/kv_cache.py`.
"""

import torch
from torch import Tensor

from minillm.cache.kv_cache import KVCache
from minillm.models.language_model import Rollback


class CachedState:
    """The `State` of a transformer."""

    def __init__(
        self, batch_size: int, caches: list[KVCache], device: torch.device, context_length: int, relative: bool
    ):
        """context_length: number of positions of the model. relative: positions are only compared (rotary, ALiBi).

        A cache that renumbers positions needs relative ones, and fewer than `context_length` of them; otherwise raises
        ValueError.
        """
        self.span = caches[0].span
        if self.span is not None and not relative:
            raise ValueError(
                "cache: expected one that does not renumber positions, since this model adds them to its embeddings; "
                "take another cache, or a model with rotary or alibi positions"
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

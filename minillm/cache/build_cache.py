"""Which cache, by name. Read before: `kv_cache`, then the file of the one that is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.h2o import H2OCache
from minillm.cache.kv_cache import KVCache
from minillm.cache.paged import PagedCache
from minillm.cache.quantized import QuantizedCache
from minillm.cache.snapkv import SnapKVCache
from minillm.cache.streaming import StreamingCache
from minillm.config.fields import Choice, Count, validate

PAGE = 16  # tokens
COMPLETE: dict[str, Callable[[], KVCache]] = {  # keep every token
    "contiguous": ContiguousCache,
    "int8": partial(QuantizedCache, bits=8),
    "int4": partial(QuantizedCache, bits=4),
}
PAGED: dict[str, Callable[..., KVCache]] = {"paged": PagedCache}  # keep every token, in a number of pages that is fixed
FORGETFUL: dict[str, Callable[[int], KVCache]] = {  # keep so many tokens
    "streaming": StreamingCache,
    "h2o": H2OCache,
    "snapkv": SnapKVCache,
}


@dataclass(frozen=True)
class CacheConfig:
    """What attention remembers of what was read."""

    cache: Annotated[str, Choice(COMPLETE, PAGED, FORGETFUL)] = "contiguous"  # all, rounded, or a choice
    cache_budget: Count = (
        0  # tokens that streaming, h2o and snapkv keep of a text, or paged has room for; 0: of paged, all that fit
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.cache in FORGETFUL and not self.cache_budget:
            raise ValueError(f"cache_budget = 0: expected the tokens that {self.cache} keeps; add --cache-budget 64")
        if self.cache in COMPLETE and self.cache_budget:
            raise ValueError(
                f"cache_budget = {self.cache_budget} would be ignored by {self.cache}, which keeps every token; leave one of the two out"
            )


def build_cache(config: CacheConfig, room: int = 0) -> Callable[[], KVCache]:
    """What makes the cache of one layer. `room`: tokens that all texts together may hold, for pages without a budget.

    Raises ValueError for a budget that is too small to work with.
    """
    if config.cache in COMPLETE:
        return COMPLETE[config.cache]
    if config.cache in PAGED:
        if not (config.cache_budget or room):
            raise ValueError(
                f"cache_budget = 0: expected the tokens that {config.cache} has room for, where nobody says how many there can be"
            )
        return partial(PAGED[config.cache], n_pages=-(-(config.cache_budget or room) // PAGE), page_size=PAGE)
    make = partial(FORGETFUL[config.cache], config.cache_budget)
    make()  # a budget that does not do is refused here, before anything is read
    return make

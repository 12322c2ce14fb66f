"""KV caches by name. Read before: `kv_cache`, then the file of the cache that you want to use."""

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
COMPLETE: dict[str, Callable[[], KVCache]] = {  # caches that keep every token
    "contiguous": ContiguousCache,
    "int8": partial(QuantizedCache, bits=8),
    "int4": partial(QuantizedCache, bits=4),
}
# keeps every token, in a fixed number of pages
PAGED: dict[str, Callable[..., KVCache]] = {"paged": PagedCache}
FORGETFUL: dict[str, Callable[[int], KVCache]] = {  # caches that keep a budget of tokens
    "streaming": StreamingCache,
    "h2o": H2OCache,
    "snapkv": SnapKVCache,
}


@dataclass(frozen=True)
class CacheConfig:
    """Which past tokens the KV cache keeps, and in which form."""

    cache: Annotated[str, Choice(COMPLETE, PAGED, FORGETFUL)] = "contiguous"  # form of the KV cache
    cache_budget: Count = 0  # tokens that streaming, h2o and snapkv keep, or paged has room for (0: as many as fit)

    def __post_init__(self) -> None:
        validate(self)
        if self.cache in FORGETFUL and not self.cache_budget:
            raise ValueError(
                f"cache_budget = 0: expected the number of tokens that {self.cache} keeps; add --cache-budget 64"
            )
        if self.cache in COMPLETE and self.cache_budget:
            raise ValueError(
                f"cache_budget = {self.cache_budget} would be ignored by {self.cache}, which keeps every token; "
                "leave one of the two out"
            )


def build_cache(config: CacheConfig, room: int = 0) -> Callable[[], KVCache]:
    """A function that makes the cache of one layer. `room`: tokens of all texts, for pages without a budget.

    Raises ValueError for a budget that is too small.
    """
    if config.cache in COMPLETE:
        return COMPLETE[config.cache]
    if config.cache in PAGED:
        if not (config.cache_budget or room):
            raise ValueError(
                f"cache_budget = 0: expected the number of tokens that {config.cache} has room for, "
                "since no limit is known here; set it"
            )
        return partial(PAGED[config.cache], n_pages=-(-(config.cache_budget or room) // PAGE), page_size=PAGE)
    make = partial(FORGETFUL[config.cache], config.cache_budget)
    make()  # raises ValueError for an invalid budget before anything is read
    return make

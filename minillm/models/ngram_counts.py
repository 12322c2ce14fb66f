"""How often every sequence of up to n tokens has occurred, in sorted arrays.

An m-gram is one integer: the place of its first m - 1 tokens among all (m - 1)-grams, then its last token,

    key(w1 ... wm) = place(w1 ... wm-1) * 2^bits + wm        place(g) = index of key(g) among the sorted keys of its length

So a key fits in 63 bits however long the n-gram and however large the vocabulary, a binary search leads from a sequence to a
longer one, and all that ever followed a context lies side by side. Twelve bytes an n-gram. Pauls and Klein (2011), "Faster
and smaller n-gram language models", compare this trie of sorted arrays with others.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.base import EMPTY


class Followers(NamedTuple):
    """What followed each of N contexts, as a sparse (N, V) table with K entries."""

    rows: Tensor  # (K,) long
    tokens: Tensor  # (K,) long
    counts: Tensor  # (K,) float64, above zero
    totals: Tensor  # (N, 1) float64: the sum of a row's counts; 0 for a context that nothing has followed
    kinds: Tensor  # (N, 1) float64: how many different tokens followed


class Level(nn.Module):
    """All n-grams of one length."""

    keys: Tensor  # (K,) long, ascending
    counts: Tensor  # (K,) int: how often each has occurred; 0 for one that was only ever read as a context
    weights: Tensor | None  # (K,) the counts as smoothing wants them; None: not yet asked for since the last change

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.empty(0, dtype=torch.long))
        self.register_buffer("counts", torch.empty(0, dtype=torch.int))
        self.register_buffer("weights", None, persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)

    def find(self, keys: Tensor) -> Tensor:
        """The place of each key (N,), EMPTY where there is no such n-gram."""
        places = torch.searchsorted(self.keys, keys)
        return places.where(self._holds(places, keys), EMPTY)

    def insert(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Make sure that all these n-grams are here, new ones with count 0. keys: ascending, none twice.

        Returns the places that the old n-grams now have, and those of `keys`.
        """
        below = torch.searchsorted(self.keys, keys)  # old keys below each
        new = ~self._holds(below, keys)
        places = below + new.cumsum(0) - new.long()
        n_old = len(self.keys)
        moved = torch.bincount(below[new], minlength=n_old + 1)[:n_old].cumsum(0) + torch.arange(n_old, device=keys.device)
        merged, counts = self.keys.new_empty(n_old + int(new.sum())), self.counts.new_zeros(n_old + int(new.sum()))
        merged[moved], merged[places[new]] = self.keys, keys[new]
        counts[moved] = self.counts
        self.keys, self.counts = merged, counts
        return moved, places

    def _holds(self, places: Tensor, keys: Tensor) -> Tensor:
        if not len(self.keys):
            return torch.zeros_like(keys, dtype=torch.bool)
        return self.keys[places.clamp(max=len(self.keys) - 1)] == keys


def _make_room(level: Level, state_dict: dict, prefix: str, *_: object) -> None:
    """Before a checkpoint is copied in: as many n-grams as it has."""
    level.weights = None
    for name in ("keys", "counts"):
        if prefix + name in state_dict:
            setattr(level, name, getattr(level, name).new_empty(len(state_dict[prefix + name])))


class NgramCounts(nn.Module):
    """The n-grams of lengths 1 ... order."""

    def __init__(self, order: int, vocab_size: int):
        super().__init__()
        self.bits = max(1, (vocab_size - 1).bit_length())
        self.levels = nn.ModuleList(Level() for _ in range(order))

    def add(self, text: Tensor, counted: Tensor) -> None:
        """Count every n-gram that ends where `counted` (B, S) is true. text: (B, S) long; no n-gram reaches across an EMPTY.

        The others are entered too, with what count they have, since longer n-grams begin with them.
        """
        order = len(self.levels)
        # narrow types, since what is looked up at random should fit in the processor's cache
        flat, counted = (nn.functional.pad(x, (0, order), value=EMPTY).flatten() for x in (text.int(), counted.char()))
        starts = self._sorted((flat >= 0).nonzero()[:, 0], flat)
        begins, before = torch.zeros_like(starts, dtype=torch.bool), torch.zeros_like(starts)
        begins[:1] = True  # of each run of starts with the same m tokens
        for m, level in enumerate(self.levels):
            tokens = flat.gather(0, starts + m)
            begins[1:] |= tokens[1:] != tokens[:-1]
            whole = tokens >= 0  # of a run all are, or none is
            starts, begins, before, tokens = (x.masked_select(whole) for x in (starts, begins, before, tokens))
            moved, places = level.insert(self._keys(before, tokens).masked_select(begins))
            if m + 1 < order:
                self.levels[m + 1].keys += self._shift(moved).gather(0, self.levels[m + 1].keys >> self.bits)
            before = places.gather(0, begins.cumsum(0) - 1)
            level.counts.index_add_(0, before, counted.gather(0, starts + m).int())
            level.weights = None

    def _sorted(self, starts: Tensor, flat: Tensor) -> Tensor:
        """Places in a text, in the order of the `order` tokens that begin there: m-grams are then in order too, for every m."""
        bits, order = self.bits + 1, len(self.levels)  # one more, for EMPTY
        n_packed = 63 // bits  # tokens in one number
        for end in range(order, 0, -n_packed):
            packed = torch.zeros_like(starts)
            for m in range(max(0, end - n_packed), end):
                packed = (packed << bits) | (flat.gather(0, starts + m) + 1)
            starts = starts.gather(0, packed.argsort(stable=True))
        return starts

    def _shift(self, moved: Tensor) -> Tensor:
        """What to add to the keys of n-grams whose prefix has moved."""
        return (moved - torch.arange(len(moved), device=moved.device)) << self.bits

    def find(self, grams: Tensor) -> Tensor:
        """The place of each m-gram (N, m) among those of its length, EMPTY where it has not occurred: (N,)."""
        places = grams.new_zeros(len(grams))
        for level, tokens in zip(self.levels, grams.unbind(1), strict=False):
            places = level.find(self._keys(places, tokens))
        return places

    def followers(self, contexts: Tensor) -> Followers:
        """What followed contexts (N, m), m < order; nothing followed one that has not occurred or has an EMPTY in it."""
        level, places = self.levels[contexts.shape[1]], self.find(contexts)
        first, end = (torch.searchsorted(level.keys, border << self.bits) for border in (places, places + 1))
        n = end - first
        rows = torch.arange(len(n), device=n.device).repeat_interleave(n)
        entries = torch.arange(len(rows), device=n.device) + (first - (n.cumsum(0) - n))[rows]
        counts = level.weights[entries].double()
        rows, entries, counts = (x[counts > 0] for x in (rows, entries, counts))
        totals, kinds = counts.new_zeros(2, len(n)).unbind()
        totals.index_add_(0, rows, counts)
        kinds.index_add_(0, rows, torch.ones_like(counts))
        return Followers(rows, level.keys[entries] & ((1 << self.bits) - 1), counts, totals[:, None], kinds[:, None])

    def occurrences(self) -> list[Tensor]:
        """How often each n-gram of each length has occurred."""
        return [level.counts for level in self.levels]

    def predecessors(self) -> list[Tensor]:
        """The same for the longest n-grams; for each shorter one how many different tokens it has followed (Kneser and Ney 1995).

        An occurrence with nothing before it, at the beginning of a text, counts as a predecessor of its own.
        """
        weights, links = [], torch.zeros_like(self.levels[0].keys)
        for shorter, longer in zip(self.levels, self.levels[1:], strict=False):
            # the longer n-gram without its first token: what its prefix without the first token was continued to
            links = shorter.find(self._keys(links[longer.keys >> self.bits], longer.keys & ((1 << self.bits) - 1)))
            weights.append(shorter.counts.index_add(0, links, (longer.counts > 0).int() - longer.counts))
        return [*weights, self.levels[-1].counts]

    def table(self, m: int) -> tuple[Tensor, Tensor]:
        """All m-grams that have occurred, (K, m) in ascending order, and how often, (K,)."""
        places, columns = torch.arange(len(self.levels[m - 1].keys), device=self.levels[0].keys.device), []
        for level in reversed(self.levels[:m]):
            columns.append(level.keys[places] & ((1 << self.bits) - 1))
            places = level.keys[places] >> self.bits
        counts = self.levels[m - 1].counts
        return torch.stack(columns[::-1], 1)[counts > 0], counts[counts > 0]

    def _keys(self, places: Tensor, tokens: Tensor) -> Tensor:
        """Negative, and so nowhere to be found, where either is EMPTY."""
        return (places << self.bits) | tokens

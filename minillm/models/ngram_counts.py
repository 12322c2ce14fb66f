"""Counts of n-grams: every sequence of up to n tokens, in sorted arrays.

The key of an m-gram is one integer: the index of its first m - 1 tokens among all (m - 1)-grams, then its last token,

    key(w1 ... wm) = place(w1 ... wm-1) * 2^bits + wm        place(g) = index of key(g) in the sorted keys of its length

So a key fits in 63 bits for any order and vocabulary, a binary search extends an n-gram by one token, and all
continuations of a context are contiguous. An n-gram takes twelve bytes. Pauls and Klein (2011), "Faster and smaller
n-gram language models", compare this trie of sorted arrays with others.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.constants import EMPTY

MOST = 2**22  # tokens of a text that are sorted at once: more need more memory, fewer need more merging
PART = 2**20  # n-grams of a long array that are processed at once


class Followers(NamedTuple):
    """Counts of the tokens that follow each of N contexts: a sparse (N, V) table with K entries."""

    rows: Tensor  # (K,) long
    tokens: Tensor  # (K,) long
    counts: Tensor  # (K,) float64, above zero
    totals: Tensor  # (N, 1) float64: sum of a row's counts; 0 for a context without followers
    kinds: Tensor  # (N, 1) float64: number of different followers


def _sort(numbers: Tensor) -> Tensor:
    """Sort ascending, in place on the CPU, where numpy sorts integers ten times as fast as torch."""
    if numbers.device.type != "cpu":
        return numbers.sort().values
    numbers.numpy().sort()
    return numbers


def _order(numbers: Tensor) -> Tensor:
    """The indices that sort the numbers in ascending order."""
    return numbers.argsort() if numbers.device.type != "cpu" else torch.from_numpy(numbers.numpy().argsort())


def _below(numbers: Tensor, borders: Tensor) -> Tensor:
    """For each border, count the numbers (ascending) below it; numpy is faster if the borders ascend too."""
    if numbers.device.type != "cpu":
        return torch.searchsorted(numbers, borders)
    return torch.from_numpy(numbers.numpy().searchsorted(borders.numpy()))


class Level(nn.Module):
    """All n-grams of one length."""

    keys: Tensor  # (K,) long, ascending
    counts: Tensor  # (K,) int: occurrences of each; 0 if it only occurred as a context
    weights: Tensor | None  # (K,) the counts for smoothing; None: not computed since the last change

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.empty(0, dtype=torch.long))
        self.register_buffer("counts", torch.empty(0, dtype=torch.int))
        self.register_buffer("weights", None, persistent=False)
        self.register_load_state_dict_pre_hook(_make_room)

    def find(self, keys: Tensor) -> Tensor:
        """The index of each key (N,), EMPTY for an n-gram that is not here."""
        order = _order(keys)  # sorted, so that successive searches read memory that is in the processor's cache
        keys = keys.gather(0, order)
        places = _below(self.keys, keys)
        return torch.empty_like(places).scatter_(0, order, places.where(self._holds(places, keys), EMPTY))

    def insert(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Insert the n-grams that are missing, with count 0. keys: ascending, without duplicates.

        Returns the indices of all `keys`, and for each new one the number of old n-grams below it.
        """
        places = _below(self.keys, keys)
        new = ~self._holds(places, keys)
        below, keys = places.masked_select(new), keys.masked_select(new)
        places += new.cumsum(0) - new.long()
        old = torch.ones(len(self.keys) + len(keys), dtype=torch.bool, device=keys.device)
        old[places.masked_select(new)] = False
        # one array after the other, so that only one exists twice at a time
        self.keys = torch.empty_like(old, dtype=torch.long).masked_scatter_(old, self.keys).masked_scatter_(~old, keys)
        self.counts = torch.zeros_like(old, dtype=torch.int).masked_scatter_(old, self.counts)
        return places, below

    def _holds(self, places: Tensor, keys: Tensor) -> Tensor:
        if not len(self.keys):
            return torch.zeros_like(keys, dtype=torch.bool)
        return self.keys[places.clamp(max=len(self.keys) - 1)] == keys


def _make_room(level: Level, state_dict: dict, prefix: str, *_: object) -> None:
    """Before a checkpoint is loaded, resize the arrays to its number of n-grams."""
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
        """Count every n-gram that ends where `counted` (B, S) is true. text: (B, S) long; no n-gram contains EMPTY.

        The other n-grams are inserted too, without a change of their count, since longer n-grams begin with them.
        """
        order = len(self.levels)
        # narrow types, so that arrays with random access fit in the processor's cache
        flat, counted = (nn.functional.pad(x, (0, order), value=EMPTY).flatten() for x in (text.int(), counted.char()))
        n_parts = -(-len(flat) // min(MOST, 2 ** ((63 - self.bits) // 2)))
        n = -(-len(flat) // max(1, n_parts))
        for first in range(0, len(flat), max(1, n)):
            self._add(flat[first : first + n + order], counted[first : first + n + order], min(n, len(flat) - first))

    def _add(self, flat: Tensor, counted: Tensor, n: int) -> None:
        """Count the n-grams that begin at the first n places of a text.

        The places are sorted by their first token, then by their first two, and so on, as one number for each place:

            (rank of the m tokens that begin there | the next token | the place),    negative if the next token is EMPTY
        """
        bits, last = (n - 1).bit_length(), (1 << self.bits) - 1
        starts, ranks = torch.arange(n, device=flat.device), torch.zeros(n, dtype=torch.long, device=flat.device)
        before = ranks[:1]  # the index of each different context
        for m, level in enumerate(self.levels):
            packed = _sort(self._keys(ranks, flat.gather(0, starts + m)) << bits | starts)
            packed = packed[_below(packed, packed.new_zeros(1)) :]
            starts, packed = packed & ((1 << bits) - 1), packed >> bits
            begins = torch.ones_like(packed, dtype=torch.bool)  # of each run of the same m + 1 tokens
            torch.ne(packed[1:], packed[:-1], out=begins[1:])
            packed, ranks = packed.masked_select(begins), begins.cumsum(0) - 1
            n_old = len(level.keys)
            before, below = level.insert(self._keys(before.gather(0, packed >> self.bits), packed & last))
            if m + 1 < len(self.levels):
                self._move(self.levels[m + 1], below, n_old)
            level.counts.index_add_(0, before.gather(0, ranks), counted.gather(0, starts + m).int())
            level.weights = None

    def _move(self, level: Level, below: Tensor, n: int) -> None:
        """Update keys after new prefixes were inserted: of n old prefixes, `below` are below each new one."""
        borders = nn.functional.pad(below, (1, 1))
        borders[-1] = n
        up = torch.repeat_interleave(borders.diff().int())  # (n,) how far each prefix has moved
        for part in level.keys.split(PART):
            part += up.gather(0, part >> self.bits).long() << self.bits

    def find(self, grams: Tensor) -> Tensor:
        """The index of each m-gram (N, m) among all m-grams, (N,); EMPTY if it has not occurred."""
        places = grams.new_zeros(len(grams))
        for level, tokens in zip(self.levels, grams.unbind(1), strict=False):
            places = level.find(self._keys(places, tokens))
        return places

    def followers(self, contexts: Tensor) -> Followers:
        """The followers of contexts (N, m), m < order; none for a context that has not occurred or contains EMPTY."""
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
        """The number of occurrences of each n-gram, for each length."""
        return [level.counts for level in self.levels]

    def predecessors(self) -> list[Tensor]:
        """Counts for Kneser-Ney (1995): for shorter n-grams, the number of different tokens before them.

        The longest n-grams keep their occurrences. Each occurrence at the beginning of a text counts as one
        predecessor.
        """
        weights, links = [], torch.zeros_like(self.levels[0].keys, dtype=torch.int)
        for shorter, longer in zip(self.levels, self.levels[1:], strict=False):
            weights.append(shorter.counts.clone())
            parts = []
            for keys, counts in zip(longer.keys.split(PART), longer.counts.split(PART), strict=True):
                # the longer n-gram without its first token: its prefix without the first token, then its last token
                part = shorter.find(
                    self._keys(links.gather(0, keys >> self.bits).long(), keys & ((1 << self.bits) - 1))
                )
                weights[-1].index_add_(0, part, (counts > 0).int() - counts)
                parts.append(part.int())
            links = torch.cat(parts)
        return [*weights, self.levels[-1].counts]

    def table(self, m: int) -> tuple[Tensor, Tensor]:
        """All m-grams that have occurred, (K, m) in ascending order, and their counts, (K,)."""
        places, columns = torch.arange(len(self.levels[m - 1].keys), device=self.levels[0].keys.device), []
        for level in reversed(self.levels[:m]):
            columns.append(level.keys[places] & ((1 << self.bits) - 1))
            places = level.keys[places] >> self.bits
        counts = self.levels[m - 1].counts
        return torch.stack(columns[::-1], 1)[counts > 0], counts[counts > 0]

    def _keys(self, places: Tensor, tokens: Tensor) -> Tensor:
        """Keys from the indices of prefixes and the last tokens; negative, so never found, if either is EMPTY."""
        return (places << self.bits) | tokens

"""Smoothing: probabilities of tokens that an n-gram model has not seen after a context.

Each rule computes the distribution after a context h from p(w | h'), where h' is h without its first token. The
recursion starts from a uniform p, so no token is impossible. A context without followers leaves p unchanged.

    add-k             (c(h w) + k) / (c(h) + k V)                                      Lidstone 1920; k = 1: Laplace
    Kneser-Ney        (c(h w) - d) / c(h)  if seen,  + d n(h) / c(h) * p(w | h')       Kneser and Ney 1995, interpolated
    stupid back-off   c(h w) / c(h)  if seen,  else  b * p(w | h');  scores            Brants et al. 2007

c(h) is the sum of c(h w) over all w, and n(h) the number of different tokens after h. Below the highest order, c in
Kneser-Ney is the number of different tokens before h w: "Francisco" is frequent, but follows only "San". Chen and
Goodman (1998) compare these rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.models.ngram_counts import Followers, NgramCounts


class Smoothing:
    """Base of the smoothing rules."""

    def weights(self, counts: NgramCounts) -> list[Tensor]:
        """The count c of each n-gram, for each length."""
        return counts.occurrences()

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        """p(w | h) of N contexts from p(w | h'), (N, V) -> (N, V)."""
        raise NotImplementedError

    def normalize(self, p: Tensor) -> Tensor:
        """Turn the scores (N, V) of the rule into probabilities."""
        return p


@dataclass(frozen=True)
class AddK(Smoothing):
    """Add-k smoothing: add k to the count of each token after each context."""

    k: float

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        totals = seen.totals + self.k * shorter.shape[1]
        p = torch.where(seen.totals > 0, self.k / totals, shorter)
        p[seen.rows, seen.tokens] += seen.counts / totals[seen.rows, 0]
        return p


@dataclass(frozen=True)
class KneserNey(Smoothing):
    """Kneser-Ney smoothing: subtract a discount from each count, and give that mass to the shorter context."""

    discount: float

    def weights(self, counts: NgramCounts) -> list[Tensor]:
        return counts.predecessors()

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        p = shorter * torch.where(seen.totals > 0, self.discount * seen.kinds / seen.totals, 1.0)
        p[seen.rows, seen.tokens] += (seen.counts - self.discount) / seen.totals[seen.rows, 0]
        return p


@dataclass(frozen=True)
class StupidBackoff(Smoothing):
    """Stupid back-off: score a token by the longest context that it has followed; `normalize` makes the sum 1."""

    backoff: float

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        scores = self.backoff * shorter
        scores[seen.rows, seen.tokens] = seen.counts / seen.totals[seen.rows, 0]
        return scores

    def normalize(self, p: Tensor) -> Tensor:
        return p / p.sum(-1, keepdim=True)


class Rule(NamedTuple):
    """A smoothing rule and its parameter."""

    make: Callable[[float], Smoothing]
    number: str  # the key of `NgramConfig` that holds it


SMOOTHINGS = {
    "kneser-ney": Rule(KneserNey, "discount"),
    "add-k": Rule(AddK, "k"),
    "stupid-backoff": Rule(StupidBackoff, "backoff"),
}

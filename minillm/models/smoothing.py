"""Smoothing: probabilities of tokens that an n-gram model has not seen after a context.

Each rule turns the distribution after a shorter context, p(w | h'), into the one after a context h with one more token.
The first p is uniform, so that no token is impossible. A context that nothing has followed leaves p as it is.

    add-k             (c(h w) + k) / (c(h) + k V)                                           Lidstone 1920; k = 1 is Laplace
    Kneser-Ney        (c(h w) - d) / c(h)  where seen,  + d n(h) / c(h) * p(w | h')         Kneser and Ney 1995, interpolated
    stupid back-off   c(h w) / c(h)  where seen,  else  b * p(w | h');  scores               Brants et al. 2007

c(h) sums over what followed h, n(h) is how many different tokens did. Below the highest order the c of Kneser-Ney is
the number of different tokens before h w: "Francisco" is frequent, but follows nothing but "San". Chen and Goodman
(1998) compare them all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.models.ngram_counts import Followers, NgramCounts


class Smoothing:
    """A rule."""

    def weights(self, counts: NgramCounts) -> list[Tensor]:
        """The c of each n-gram, for each length."""
        return counts.occurrences()

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        """p(w | h) of N contexts from p(w | h'), (N, V) -> (N, V)."""
        raise NotImplementedError

    def normalize(self, p: Tensor) -> Tensor:
        """Normalize the scores (N, V) of the rule to probabilities."""
        return p


@dataclass(frozen=True)
class AddK(Smoothing):
    """Pretend that each token has followed each context k more times."""

    k: float

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        totals = seen.totals + self.k * shorter.shape[1]
        p = torch.where(seen.totals > 0, self.k / totals, shorter)
        p[seen.rows, seen.tokens] += seen.counts / totals[seen.rows, 0]
        return p


@dataclass(frozen=True)
class KneserNey(Smoothing):
    """Take a little from each count and hand it to the shorter context."""

    discount: float

    def weights(self, counts: NgramCounts) -> list[Tensor]:
        return counts.predecessors()

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        p = shorter * torch.where(seen.totals > 0, self.discount * seen.kinds / seen.totals, 1.0)
        p[seen.rows, seen.tokens] += (seen.counts - self.discount) / seen.totals[seen.rows, 0]
        return p


@dataclass(frozen=True)
class StupidBackoff(Smoothing):
    """The longest context that the token has followed decides; the sum is not one until somebody divides by it."""

    backoff: float

    def __call__(self, shorter: Tensor, seen: Followers) -> Tensor:
        scores = self.backoff * shorter
        scores[seen.rows, seen.tokens] = seen.counts / seen.totals[seen.rows, 0]
        return scores

    def normalize(self, p: Tensor) -> Tensor:
        return p / p.sum(-1, keepdim=True)


class Rule(NamedTuple):
    """A smoothing with its one number."""

    make: Callable[[float], Smoothing]
    number: str  # the key of `NgramConfig` that holds it


SMOOTHINGS = {
    "kneser-ney": Rule(KneserNey, "discount"),
    "add-k": Rule(AddK, "k"),
    "stupid-backoff": Rule(StupidBackoff, "backoff"),
}

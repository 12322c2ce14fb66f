"""Reshape the next-token distribution: temperature, top-k, top-p, min-p, typical.

A model's output is logits x (B, V), and its distribution is p = softmax(x). A transform is a pure function from logits
to logits that makes the distribution sharper or cuts its tail; a token that is cut gets -inf, so its probability is
exactly 0, and softmax renormalizes the others. Each also gets the history (B, T), the tokens read so far with EMPTY for
padding; only those of `penalties.py` use it. Computed in float32 or wider. Adding a constant to the logits changes no
distribution; of tokens with equal logits, the lower id ranks first. Top-k: Fan et al. 2018; top-p: Holtzman et al.
2019; min-p: Nguyen et al. 2024; typical: Meister et al. 2022.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Transform = Callable[[Tensor, Tensor], Tensor]  # (logits (B, V), history (B, T)) -> logits; pure

WIDE = (torch.float32, torch.float64)  # dtypes of logits that are not widened
BANNED = -math.inf  # the logit of a token whose probability is exactly 0
ROUNDING = 1e-12  # more than the error of a sum of 50,000 float64 probabilities; a mass this near to p reaches it


@dataclass(frozen=True, repr=False)
class Temperature:
    """x / t: below 1 sharper, above 1 flatter, 0 greedy (of equal largest logits, the lowest id is kept).

    >>> logits, history = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0]])
    >>> [Temperature(t)(logits, history).softmax(-1).tolist()[0][0] > 0.5 for t in (0.5, 1, 2)]
    [True, False, False]
    >>> Temperature(0)(logits, history).softmax(-1)
    tensor([[1., 0., 0.]])
    """

    t: float

    def __post_init__(self) -> None:
        check("temperature", self.t, 0, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        if self.t == 0:
            return keep(logits, F.one_hot(logits.argmax(-1), logits.shape[1]).bool())
        # subtle: with the largest logit shifted to 0, no temperature gives inf - inf; float64 can represent every t
        below = (logits - logits.amax(-1, keepdim=True)).double()
        return (below / self.t).to(logits.dtype)

    def __repr__(self) -> str:
        return f"temperature {self.t:g}"


@dataclass(frozen=True, repr=False)
class TopK:
    """Keep exactly the k most probable tokens; of ties for the last place, the lower ids. 0 or k >= V keeps all.

    >>> TopK(2)(torch.tensor([[3.0, 1.0, 2.0, 2.0]]), torch.tensor([[0]]))
    tensor([[3., -inf, 2., -inf]])
    """

    k: int

    def __post_init__(self) -> None:
        check("top_k", self.k, 0, math.inf)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        if self.k == 0 or self.k >= logits.shape[1]:
            return logits
        last = logits.topk(self.k).values[:, -1:]  # (B, 1)
        above, tied = logits > last, logits == last
        room = self.k - above.sum(-1, keepdim=True)
        return keep(logits, above | (tied & (tied.cumsum(-1) <= room)))

    def __repr__(self) -> str:
        return f"top-k {self.k}"


@dataclass(frozen=True, repr=False)
class TopP:
    """Keep the fewest most probable tokens with a total probability of at least p. 0 is greedy, 1 keeps all.

    >>> TopP(0.6)(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), torch.tensor([[0]])).softmax(-1)  # 0.4 is too little
    tensor([[0.0000, 0.0000, 0.4286, 0.5714]])
    """

    p: float

    def __post_init__(self) -> None:
        check("top_p", self.p, 0, 1)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        return on_survivors(self._cut, logits) if self.p < 1 else logits

    def _cut(self, logits: Tensor) -> Tensor:
        return keep(logits, smallest_set(logits, -logits, self.p))

    def __repr__(self) -> str:
        return f"top-p {self.p:g}"


@dataclass(frozen=True, repr=False)
class MinP:
    """Keep tokens at least min_p times as probable as the most probable one. 0 keeps all; 1 only that and its ties.

    >>> MinP(0.4)(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), torch.tensor([[0]])).softmax(-1)
    tensor([[0.0000, 0.2222, 0.3333, 0.4444]])
    """

    min_p: float

    def __post_init__(self) -> None:
        check("min_p", self.min_p, 0, 1)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        if self.min_p == 0:
            return logits
        wide = logits.double()
        below = wide - wide.amax(-1, keepdim=True)  # ln(p / max p)
        return keep(logits, below >= math.log(self.min_p) - ROUNDING)

    def __repr__(self) -> str:
        return f"min-p {self.min_p:g}"


@dataclass(frozen=True, repr=False)
class Typical:
    """Keep the fewest most typical tokens with a total probability of at least p.

    Typical: |-ln p(token) - H| is small, where H is the entropy in nats. This is the only transform here that may cut
    the most probable token, if that is too predictable.

    >>> Typical(0.2)(torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log(), torch.tensor([[0]])).softmax(-1)  # H = 1.28 = -ln 0.28
    tensor([[0., 0., 1., 0.]])
    """

    p: float

    def __post_init__(self) -> None:
        check("typical_p", self.p, 0, 1)

    def __call__(self, logits: Tensor, history: Tensor) -> Tensor:
        logits = rows_of(logits, history)
        return on_survivors(self._cut, logits) if self.p < 1 else logits

    def _cut(self, logits: Tensor) -> Tensor:
        logprobs = logits.double().log_softmax(-1)
        entropy = torch.special.entr(logprobs.exp()).sum(-1, keepdim=True)  # -p ln p, and 0 at p = 0
        return keep(logits, smallest_set(logits, (-logprobs - entropy).abs(), self.p))

    def __repr__(self) -> str:
        return f"typical {self.p:g}"


def rows_of(logits: Tensor, history: Tensor) -> Tensor:
    """Logits (B, V) in float32 or wider. Raises ValueError unless history (B, T) has one row for each row of logits."""
    if logits.dim() != 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)}: expected (B, V); for (B, T, V), give the last ones, logits[:, -1]"
        )
    if history.dim() != 2 or len(history) != len(logits):
        raise ValueError(
            f"history of shape {tuple(history.shape)}: expected (B, T) with B = {len(logits)}; "
            "give one row of tokens for each row of logits"
        )
    return widen(logits)


def widen(logits: Tensor) -> Tensor:
    """Convert float16 and bfloat16 to float32; leave float32 and float64 unchanged."""
    return logits if logits.dtype in WIDE else logits.float()


def keep(logits: Tensor, kept: Tensor) -> Tensor:
    """Logits (B, V) with every token outside the mask `kept` (B, V) banned."""
    return logits.masked_fill(~kept, BANNED)


def smallest_set(logits: Tensor, rank: Tensor, p: float) -> Tensor:
    """The mask (B, V) of the fewest tokens, at least one, in ascending order of rank (B, V), with mass at least p."""
    order = rank.sort(dim=-1, stable=True).indices
    mass = logits.double().softmax(-1).gather(-1, order).cumsum(-1)
    before = F.pad(mass[:, :-1], (1, 0))  # the mass of the tokens ranked earlier
    wanted = before < p - ROUNDING
    wanted[:, :1] = True
    return torch.zeros_like(wanted).scatter(-1, order, wanted)


def on_survivors(cut: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Apply `cut` only to columns with a token left in some row: after top-k it sorts 50 tokens instead of 50,000."""
    alive = (logits > BANNED).any(0).nonzero().squeeze(-1)
    out = torch.full_like(logits, BANNED)
    out[:, alive] = cut(logits[:, alive])
    return out


def check(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless value is a finite number in [low, high]."""
    if not (math.isfinite(value) and low <= value <= high):
        expected = f"a number from {low:g} to {high:g}" if high < math.inf else f"a finite number >= {low:g}"
        raise ValueError(f"{name} = {value}: expected {expected}")


# these keep only the most probable token; of ties, the lowest id
GREEDY = (Temperature(0), TopK(1), TopP(0))

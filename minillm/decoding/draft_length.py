"""Draft length: how many tokens to draft before the next call of the target, and none where drafting does not pay.

    speed-up = tokens of a call / its cost = (1 - a^(k+1)) / (1 - a) / (1 + o + c k)        plain decoding: k = 0, speed-up 1

a is the probability that a guess is accepted, counted as the text is written; c the cost of a drafted token and o that
of checking a draft at all, in calls of the target. Greedy text is the same for any k, so c and o are measured there, by
a clock. A sampled text is another one of the same distribution for another k, so that the same seed writes the same
text on a busy machine as on an idle one only where counts decide alone: there c and o are stated beforehand. Leviathan
et al. 2023, section 3.5.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

MOST = 16  # tokens that are drafted at once
TRIALS = 4  # tokens that are drafted to find out what is accepted, and one more for every SPAN tokens that are written
SPAN = 32
CHECK = 0.3  # calls of the target that checking a draft is stated to take beside the call itself
TIMED = (0, 1, 4, 0, 4)  # lengths of the first rounds, by which a clock learns what the others will cost


@dataclass
class Tally:
    """Counts of drafted, tested and accepted tokens, of one row or of several together."""

    n_calls: int = 0  # of the target
    n_tokens: int = 0  # drawn, END among them
    n_drafted: int = 0
    n_tested: int = 0  # drafted tokens with only accepted ones before them
    n_accepted: int = 0
    n_plain: int = 0  # calls of the target for which nothing was drafted

    def add_call(self, drafted: int, accepted: int) -> None:
        """Count one call of the target, which ended the draft at its first rejection."""
        self.n_calls += 1
        self.n_drafted += drafted
        self.n_tested += min(drafted, accepted + 1)
        self.n_accepted += accepted
        self.n_plain += not drafted

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def acceptance(self) -> float:
        """The share of tested tokens that was accepted."""
        return self.n_accepted / max(self.n_tested, 1)

    @property
    def tokens_per_call(self) -> float:
        """Tokens for each call of the target: 1 without a draft."""
        return self.n_tokens / max(self.n_calls, 1)

    @property
    def mean_length(self) -> float:
        """Tokens drafted for each call of the target."""
        return self.n_drafted / max(self.n_calls, 1)


class Cost(NamedTuple):
    """Cost of drafting, in calls of the target."""

    token: float  # a drafted token
    call: float = 0.0  # checking a draft, beside the call itself


def expected_tokens(acceptance: float, k: float) -> float:
    """Tokens that a call of the target gives for k guesses, each accepted with that probability if all before it are."""
    return k + 1 if acceptance == 1 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def expected_speed_up(acceptance: float, k: float, cost: Cost) -> float:
    """Speed-up of drafting k tokens over plain decoding; 1 where nothing is drafted."""
    return expected_tokens(acceptance, k) / (1 + cost.call + cost.token * k) if k else 1.0


def best_length(tally: Tally, cost: Cost) -> int:
    """The number of tokens to draft, 0 ... MOST, that promises most for its cost, judged by those tested so far.

    One acceptance and one rejection are taken for granted to begin with. Where nothing is promised, a token is drafted
    now and then all the same, since what is accepted may change; never where not even a perfect draft would pay.
    """
    acceptance = (tally.n_accepted + 1) / (tally.n_tested + 2)
    best = max(range(MOST + 1), key=lambda k: expected_speed_up(acceptance, k, cost))
    trial = (tally.n_drafted - TRIALS) * SPAN < tally.n_tokens and expected_speed_up(1.0, MOST, cost) > 1
    return best or int(trial)


class Lengths(Protocol):
    """The rule for how many tokens to draft."""

    def choose(self, tally: Tally) -> int:
        """The number for a row with that tally."""
        ...

    def told(self, k: int, seconds: float) -> None:
        """A round of the batch, for which at most k tokens a row were drafted, took so long."""
        ...

    def restart(self) -> None:
        """The batch has fewer rows from now on."""
        ...


class Untimed:
    """Rules that no clock has a part in."""

    def told(self, k: int, seconds: float) -> None:
        """See `Lengths.told`. Nothing follows from it."""

    def restart(self) -> None:
        """See `Lengths.restart`. Nothing follows from it."""


@dataclass(frozen=True)
class Fixed(Untimed):
    """Always the same number."""

    k: int

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`."""
        return self.k


@dataclass(frozen=True)
class Counted(Untimed):
    """The length that pays most by the counts of the row alone, at a stated cost."""

    cost: Cost

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`."""
        return best_length(tally, self.cost)


class Measured:
    """The length that pays most by the counts of the row and the measured cost: the least seconds of each length on this machine."""

    def __init__(self, stated: Cost):
        """`stated`: the cost until there are measurements."""
        self.stated = stated
        self.restart()

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`. The first rounds are there to be timed."""
        return TIMED[self.n_timed] if self.n_timed < len(TIMED) else best_length(tally, self.cost())

    def told(self, k: int, seconds: float) -> None:
        """See `Lengths.told`."""
        self.n_timed += 1
        self.least[k] = min(seconds, self.least.get(k, seconds))

    def restart(self) -> None:
        """See `Lengths.restart`. Other rounds are measured anew."""
        self.n_timed = 0
        self.least: dict[int, float] = {}

    def cost(self) -> Cost:
        """The line through the seconds of the shortest and of the longest draft that were timed."""
        lengths = sorted(k for k in self.least if k)
        if len(lengths) < 2 or not self.least.get(0):  # a clock may be too coarse to see anything
            return self.stated
        (short, t), (long, u) = ((k, self.least[k] / self.least[0]) for k in (lengths[0], lengths[-1]))
        token = max(0.0, (u - t) / (long - short))
        return Cost(token, max(0.0, t - 1 - token * short))


def lengths_for(n_draft: int, cost: float, greedy: bool) -> Lengths:
    """The rule for `n_draft` tokens, or for as many as pay where that is 0; `cost` of a token is stated by the drafter."""
    if n_draft:
        return Fixed(n_draft)
    stated = Cost(cost, CHECK)
    return Measured(stated) if greedy else Counted(stated)

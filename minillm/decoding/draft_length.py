"""Draft length: the number k of tokens to draft for the next call of the target; 0 if drafting does not pay.

    speed-up = tokens per call / cost per call = (1 - a^(k+1)) / (1 - a) / (1 + o + c k)        k = 0: speed-up 1

a is the probability that a drafted token is accepted, estimated while the text is written. c is the cost of a drafted
token and o the overhead of checking a draft, both in calls of the target. Greedy decoding writes the same text for any
k, so there c and o are measured with a clock. For sampled text, another k gives another sample of the same
distribution. There c and o are fixed in advance, so that the same seed writes the same text on a busy and on an idle
machine. Leviathan et al. 2023, section 3.5.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

MOST = 16  # maximum length of a draft, in tokens
TRIALS = 4  # tokens drafted to estimate acceptance if drafting seems not to pay, plus one for every SPAN tokens written
SPAN = 32
CHECK = 0.3  # assumed overhead of checking a draft, in calls of the target, beside the call itself
TIMED = (0, 1, 4, 0, 4)  # draft lengths of the first rounds, which are timed to estimate the cost of other lengths


@dataclass
class Tally:
    """Counts of drafted, tested and accepted tokens, for one row or summed over several."""

    n_calls: int = 0  # of the target
    n_tokens: int = 0  # drawn, END included
    n_drafted: int = 0
    n_tested: int = 0  # drafted tokens with no rejected token before them
    n_accepted: int = 0
    n_plain: int = 0  # calls of the target for which nothing was drafted

    def add_call(self, drafted: int, accepted: int) -> None:
        """Count one call of the target, with the numbers of drafted and accepted tokens."""
        self.n_calls += 1
        self.n_drafted += drafted
        self.n_tested += min(drafted, accepted + 1)
        self.n_accepted += accepted
        self.n_plain += not drafted

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def acceptance(self) -> float:
        """The fraction of tested tokens that were accepted."""
        return self.n_accepted / max(self.n_tested, 1)

    @property
    def tokens_per_call(self) -> float:
        """Mean tokens per call of the target; 1 without a draft."""
        return self.n_tokens / max(self.n_calls, 1)

    @property
    def mean_length(self) -> float:
        """Mean tokens drafted per call of the target."""
        return self.n_drafted / max(self.n_calls, 1)


class Cost(NamedTuple):
    """Cost of drafting, in calls of the target."""

    token: float  # a drafted token
    call: float = 0.0  # overhead of checking a draft


def expected_tokens(acceptance: float, k: float) -> float:
    """Expected tokens per call of the target for k drafted tokens, each accepted with probability `acceptance`."""
    return k + 1 if acceptance == 1 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def expected_speed_up(acceptance: float, k: float, cost: Cost) -> float:
    """Speed-up of drafting k tokens over plain decoding; 1 for k = 0."""
    return expected_tokens(acceptance, k) / (1 + cost.call + cost.token * k) if k else 1.0


def best_length(tally: Tally, cost: Cost) -> int:
    """The draft length, 0 ... MOST, with the best expected speed-up at the acceptance observed so far.

    The estimate of acceptance starts from one accepted and one rejected token. If the best length is 0, one token is
    still drafted now and then, since acceptance may change; but not if even a perfect draft would not pay.
    """
    acceptance = (tally.n_accepted + 1) / (tally.n_tested + 2)
    best = max(range(MOST + 1), key=lambda k: expected_speed_up(acceptance, k, cost))
    trial = (tally.n_drafted - TRIALS) * SPAN < tally.n_tokens and expected_speed_up(1.0, MOST, cost) > 1
    return best or int(trial)


class Lengths(Protocol):
    """A rule for the draft length."""

    def choose(self, tally: Tally) -> int:
        """The draft length for a row with this tally."""
        ...

    def told(self, k: int, seconds: float) -> None:
        """Record that a round of the batch with at most k drafted tokens a row took `seconds`."""
        ...

    def restart(self) -> None:
        """Forget the timings: the batch has fewer rows from now on."""
        ...


class Untimed:
    """Base of the rules that use no clock."""

    def told(self, k: int, seconds: float) -> None:
        """See `Lengths.told`. Does nothing."""

    def restart(self) -> None:
        """See `Lengths.restart`. Does nothing."""


@dataclass(frozen=True)
class Fixed(Untimed):
    """Always the same length."""

    k: int

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`."""
        return self.k


@dataclass(frozen=True)
class Counted(Untimed):
    """The best length for the counts of the row, at a cost that is fixed in advance."""

    cost: Cost

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`."""
        return best_length(tally, self.cost)


class Measured:
    """The best length for the counts of the row, at the measured cost: the shortest time of each length."""

    def __init__(self, stated: Cost):
        """`stated`: the cost to use until there are measurements."""
        self.stated = stated
        self.restart()

    def choose(self, tally: Tally) -> int:
        """See `Lengths.choose`. The first rounds use the lengths of TIMED."""
        return TIMED[self.n_timed] if self.n_timed < len(TIMED) else best_length(tally, self.cost())

    def told(self, k: int, seconds: float) -> None:
        """See `Lengths.told`."""
        self.n_timed += 1
        self.least[k] = min(seconds, self.least.get(k, seconds))

    def restart(self) -> None:
        """See `Lengths.restart`. The next rounds are timed again."""
        self.n_timed = 0
        self.least: dict[int, float] = {}

    def cost(self) -> Cost:
        """The cost by a line through the times of the shortest and the longest draft."""
        lengths = sorted(k for k in self.least if k)
        if len(lengths) < 2 or not self.least.get(0):  # no measurement, or a clock too coarse for one
            return self.stated
        (short, t), (long, u) = ((k, self.least[k] / self.least[0]) for k in (lengths[0], lengths[-1]))
        token = max(0.0, (u - t) / (long - short))
        return Cost(token, max(0.0, t - 1 - token * short))


def lengths_for(n_draft: int, cost: float, greedy: bool) -> Lengths:
    """The rule for `n_draft` tokens; 0: the best length at each step. `cost`: of a drafted token, by the drafter."""
    if n_draft:
        return Fixed(n_draft)
    stated = Cost(cost, CHECK)
    return Measured(stated) if greedy else Counted(stated)

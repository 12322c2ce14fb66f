"""What was asked for: of each figure that has a goal, how its median over the repeats is to compare with which number."""

from typing import Literal, NamedTuple


class Goal(NamedTuple):
    """At least, or at most, this."""

    comparison: Literal[">=", "<="]
    number: float

    def reached(self, value: float) -> bool:
        return value >= self.number if self.comparison == ">=" else value <= self.number

    def judge(self, value: float, form: str) -> str:
        """A cell of the table."""
        said = "reached" if self.reached(value) else "not reached"
        return f"{self.comparison} {form.format(self.number)}: {said}, median {form.format(value)}"


GOALS = {  # (name in figures.json, figure) -> goal
    ("decode", "over_transformers"): Goal(">=", 3),
    ("decode-cache", "speed_up"): Goal(">=", 8),
    ("beam-alone", "over_transformers"): Goal(">=", 3),
    ("beam-together", "over_transformers"): Goal(">=", 3),
    ("throughput", "over_fp32"): Goal(">=", 3),
    ("utilization", "share"): Goal(">=", 0.75),
    ("weights-loss", "int8_percent"): Goal("<=", 0.5),
    ("weights-loss", "int4_percent"): Goal("<=", 3),
    ("imports", "more_seconds"): Goal("<=", 0.3),
}

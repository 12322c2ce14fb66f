"""Explain a draw: every distribution between the model's logits and the drawn token, in numbers.

A `Sampler` transforms the distribution p step by step and draws from the last one. Each step is a `Stage` here: the
number of tokens that are still possible, the probability that the step removed (under the distribution before it), and
the entropy of the result,

    H(p) = -sum p log p, in nats;   exp(H): number of equally probable tokens of the same entropy        Shannon 1948

The explanation of a text is JSON that replays bit for bit: the recorded logits and the recorded uniform number give the
same token again. With speculative decoding it also has the verdict on each drafted token. Read before: `sampler`,
`speculative`.

    python -m minillm.decoding.explain nucleus         how top-p adapts to peaked and flat distributions
    python -m minillm.decoding.explain replay FILE     draw every token of an explanation again
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.decoding.sampler import Sampler, invert, uniforms
from minillm.decoding.speculative import Verification, left_over
from minillm.decoding.transforms import BANNED, TopP, Transform, widen

N_SHOWN = 5  # tokens listed for each stage
LEGEND = """\
u is a uniform random number in [0, 1): the first token whose cumulative probability exceeds u was drawn. Each step
lists the number of tokens left, the probability removed (-), and the entropy H of the rest in nats: exp(H) equally
probable tokens have the same entropy."""
NUCLEI = (0.5, 0.7, 0.9, 0.95, 0.99)
BELIEFS = {  # probabilities over 100 tokens, not yet normalized
    "certain: one token has 0.99": [0.99] + [0.01 / 99] * 99,
    "peaked: each half as probable as the one before": [2.0**-i for i in range(100)],
    "Zipf: token i has 1 / i": [1 / i for i in range(1, 101)],
    "flat: all equally probable": [1.0] * 100,
}


class Stage(NamedTuple):
    """The distribution after one step."""

    step: str  # name of the step
    n_possible: int  # tokens whose probability is not 0
    removed: float  # probability, before the step, of the tokens that it made impossible
    entropy: float  # nats
    best: list[tuple[int, float]]  # the most probable tokens and their probabilities, the best first


class DraftVerdict(NamedTuple):
    """The verdict on a drafted token: accepted if uniform * q < p."""

    token: int
    q: float  # its probability in the draft, after the sampler's transforms
    p: float  # the same in the target
    uniform: float  # in [0, 1)

    @property
    def accepted(self) -> bool:
        """Whether the token was accepted."""
        return self.uniform * self.q < self.p


class Choice(NamedTuple):
    """One drawn or accepted token, and everything that determined it."""

    stages: list[Stage]
    vocab_size: int
    tokens: list[int]  # possible tokens after the last stage
    logits: list[float]  # their logits
    uniform: float  # in [0, 1): the first token whose cumulative probability exceeds it was drawn
    token: int  # the drawn token
    nbytes: int  # size of the model's state at the draw
    # on the token that was drafted for this place, if any; if accepted, it is `token`, and nothing is drawn
    draft: DraftVerdict | None = None


def describe_belief(step: str, logits: Tensor, before: Tensor | None) -> Stage:
    """The stage of logits (V,). `before`: the probabilities (V,) of the previous stage, if any."""
    probs = logits.detach().double().softmax(-1)
    possible = logits > BANNED
    removed = 0.0 if before is None else float(before[~possible].sum())
    best = probs.topk(min(N_SHOWN, int(possible.sum())))
    entropy = -float(torch.special.xlogy(probs, probs).sum())
    return Stage(
        step,
        int(possible.sum()),
        removed,
        entropy + 0.0,
        list(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    )


def steps_of(pipeline: Sequence[Transform], logits: Tensor, history: Tensor) -> list[tuple[str, Tensor]]:
    """The logits (1, V) of the model, and those after each transform, with the name of each step."""
    steps = [("model", logits)]
    for transform in pipeline:
        steps.append((str(transform), transform(steps[-1][1], history)))
    return steps


def describe_steps(steps: Sequence[tuple[str, Tensor]]) -> list[Stage]:
    """The stages of these steps, as `steps_of` gives them."""
    stages, before = [], None
    for step, logits in steps:
        stages.append(describe_belief(step, logits[0], before))
        before = logits[0].double().softmax(-1)
    return stages


@dataclass(frozen=True)
class ExplainingSampler(Sampler):
    """A `Sampler` for one row that also records each draw in `choices`."""

    nbytes: Callable[[], int] = lambda: 0  # size of the model's state; called at every draw
    choices: list[Choice] = field(default_factory=list)

    def __call__(self, logits: Tensor, history: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """See `Sampler`. Raises ValueError for more than one row."""
        if len(logits) != 1:
            raise ValueError(
                f"{len(logits)} rows: expected one, since an explanation is for one text; explain one text at a time"
            )
        stages, logits = self._stages(logits, history)
        numbers = uniforms(generators, logits.device)
        drawn = invert(logits, numbers)
        self._keep(stages, logits, float(numbers), int(drawn), None)
        return drawn

    def watch(self, call: Verification) -> None:
        """Record all tokens that one call of the target gave, in speculative decoding of one row."""
        tokens, q, n = call.draft.tokens[0], call.draft.probs[0], int(call.n_accepted)
        for place, p in enumerate(call.p[0, : n + 1]):
            stages, _ = self._stages(call.logits[:, place], call.history[:, place])
            verdict, left, uniform, token = None, p, call.uniforms[0, -1], int(call.last)
            if place < len(tokens) and tokens[place] >= 0:
                guess, uniform_of_guess = int(tokens[place]), float(call.uniforms[0, place])
                verdict = DraftVerdict(guess, float(q[place, guess]), float(p[guess]), uniform_of_guess)
                if verdict.accepted:
                    uniform, token = uniform_of_guess, guess
                else:
                    left = left_over(p, q[place])
                    stages.append(describe_belief("residual max(0, p - q)", left.log(), p))
            self._keep(stages, left.log()[None], float(uniform), token, verdict)

    def _stages(self, logits: Tensor, history: Tensor) -> tuple[list[Stage], Tensor]:
        """The stages of the pipeline, and the logits (1, V) after the last one."""
        steps = steps_of(self.pipeline, logits, history)
        return describe_steps(steps), steps[-1][1]

    def _keep(
        self, stages: list[Stage], logits: Tensor, uniform: float, token: int, draft: DraftVerdict | None
    ) -> None:
        possible = (logits[0] > BANNED).nonzero()[:, 0]
        left = widen(logits)[0, possible].tolist()
        self.choices.append(
            Choice(stages, logits.shape[1], possible.tolist(), left, uniform, token, self.nbytes(), draft)
        )

    def for_rows(self, rows: Sequence[int]) -> "ExplainingSampler":
        """Return the sampler itself: there is one row."""
        return self


def redraw(choice: Choice) -> int:
    """The token that the recorded logits and the recorded numbers give."""
    if choice.draft is not None and choice.draft.accepted:
        return choice.draft.token
    logits = torch.full((1, choice.vocab_size), BANNED, dtype=torch.float64)
    logits[0, choice.tokens] = torch.tensor(choice.logits, dtype=torch.float64)
    return int(invert(logits, torch.tensor([choice.uniform], dtype=torch.float64)))


def to_json(choices: Sequence[Choice], **more: object) -> str:
    """An explanation as JSON; `more`: other keys to store. Floats are stored exactly."""
    rows = [
        choice._asdict()
        | {"stages": [stage._asdict() for stage in choice.stages], "draft": choice.draft and choice.draft._asdict()}
        for choice in choices
    ]
    return json.dumps(more | {"choices": rows}, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> list[Choice]:
    """The choices of an explanation. Raises ValueError for text that is not an explanation."""
    try:
        rows = json.loads(text)["choices"]
        stages = [
            [Stage(**stage | {"best": [tuple(pair) for pair in stage["best"]]}) for stage in row["stages"]]
            for row in rows
        ]
        verdicts = [row["draft"] and DraftVerdict(**row["draft"]) for row in rows]
        return [Choice(**row | {"stages": a, "draft": b}) for row, a, b in zip(rows, stages, verdicts, strict=True)]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
            f"explanation: expected the JSON that sample.py --explain FILE wrote, got an error ({e}); write it again"
        ) from e


def show(choices: Sequence[Choice], piece: Callable[[int], str]) -> str:
    """The choices as a readable table; `piece(token)` is the text to show for a token."""
    lines = []
    for number, choice in enumerate(choices, start=1):
        how = "drafted" if choice.draft is not None and choice.draft.accepted else f"drawn at u = {choice.uniform:.4f}"
        lines.append(f"{number:>4}  {piece(choice.token)!r} {how}; the state holds {choice.nbytes:,} bytes")
        if choice.draft is not None:
            token, q, p, u = choice.draft
            verdict, sign = ("accepted", "<") if choice.draft.accepted else ("rejected", ">=")
            lines.append(
                f"      the draft proposed {piece(token)!r} with q = {q:.3f}: {verdict}, "
                f"since u q = {u:.4f} x {q:.3f} {sign} p = {p:.3f} of the target"
            )
        for stage in choice.stages:
            best = "  ".join(f"{piece(token)!r} {p:.3f}" for token, p in stage.best)
            numbers = f"{stage.n_possible:>6} left  -{stage.removed:.3f}  H {stage.entropy:.3f}"
            lines.append(f"      {stage.step:<24} {numbers}   {best}")
    return "\n".join([*lines, "", LEGEND])


def nucleus() -> str:
    """A table: the number of tokens that top-p keeps of distributions from certain to flat, for several p."""
    lines = [f"{'tokens kept by top-p':<50}" + "".join(f"{p:>8}" for p in NUCLEI) + f"{'exp(H)':>9}"]
    for name, weights in BELIEFS.items():
        logits = torch.tensor([weights], dtype=torch.float64).log()
        kept = [int((TopP(p)(logits, torch.empty(1, 0, dtype=torch.long)) > BANNED).sum()) for p in NUCLEI]
        spread = math.exp(describe_belief(name, logits[0], None).entropy)
        lines.append(f"{name:<50}" + "".join(f"{n:>8}" for n in kept) + f"{spread:>9.1f}")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Run the command line of the module docstring; returns the exit status."""
    if list(words) == ["nucleus"]:
        print(nucleus())
        return 0
    if len(words) != 2 or words[0] != "replay":
        print(f"explain {' '.join(words)}: expected nucleus, or replay FILE", file=sys.stderr)
        return 2
    try:
        choices = from_json(Path(words[1]).read_text(encoding="utf-8"))
    except (ValueError, OSError) as e:
        print(f"explain replay {words[1]}: {e}", file=sys.stderr)
        return 2
    changed = [number for number, choice in enumerate(choices, start=1) if redraw(choice) != choice.token]
    print(
        f"{len(choices) - len(changed)} of {len(choices)} tokens were drawn again"
        + (f"; number {changed[0]} is the first that differs" if changed else "")
    )
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

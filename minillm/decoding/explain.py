"""Why this token: every distribution on the way from the model's logits to one draw, in numbers.

A `Sampler` reshapes a belief p step by step and draws from what is left. Each step is a `Stage` here: how many tokens
are still possible, the probability of those that it removed (under the belief that it was given), and the entropy that
remains,

    H(p) = -sum p log p, in nats;   exp(H) tokens that are equally probable would leave one as uncertain         Shannon 1948

The explanation of a text is JSON that replays bit for bit: from the recorded logits and the recorded uniform number the
same token is drawn again. Where tokens were drafted, the verdict on each guess is a part of it. Read `sampler` and
`speculative` before this.

    python -m minillm.decoding.explain nucleus         how top-p adapts to peaked and to flat beliefs
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
from minillm.decoding.transforms import BANNED, TopP, widen

N_SHOWN = 5  # candidates of each stage
LEGEND = """\
u is a uniform number in [0, 1): the token was drawn at which the sum of the probabilities passes it. Each step tells how many tokens it
left, the probability that it removed (-), and the entropy H of the rest in nats: exp(H) equally probable tokens are as uncertain."""
NUCLEI = (0.5, 0.7, 0.9, 0.95, 0.99)
BELIEFS = {  # probabilities over 100 tokens, not yet normalized
    "certain: one token has 0.99": [0.99] + [0.01 / 99] * 99,
    "peaked: each half as probable as the one before": [2.0**-i for i in range(100)],
    "Zipf: token i has 1 / i": [1 / i for i in range(1, 101)],
    "flat: all equally probable": [1.0] * 100,
}


class Stage(NamedTuple):
    """The belief after one step."""

    step: str  # what was done
    n_possible: int  # tokens whose probability is not 0
    removed: float  # probability of those that became impossible, under the belief before
    entropy: float  # nats
    best: list[tuple[int, float]]  # the most probable tokens and their probabilities, the best first


class DraftVerdict(NamedTuple):
    """The verdict on a drafted token: accepted where uniform * q < p."""

    token: int
    q: float  # its probability by the draft
    p: float  # and by the target, both through the sampler
    uniform: float  # in [0, 1)

    @property
    def accepted(self) -> bool:
        """Whether it was written."""
        return self.uniform * self.q < self.p


class Choice(NamedTuple):
    """One draw, and all that led to it."""

    stages: list[Stage]
    vocab_size: int
    tokens: list[int]  # those that were possible at the end,
    logits: list[float]  # and their logits
    uniform: float  # in [0, 1): the token whose share of the line holds it was drawn
    token: int  # the one
    nbytes: int  # what the model's state held then
    draft: DraftVerdict | None = (
        None  # on the token that was guessed for this place, if any; accepted, it is the one, and nothing is drawn
    )


def describe_belief(step: str, logits: Tensor, before: Tensor | None) -> Stage:
    """The stage that logits (V,) are at, `before` being the probabilities (V,) of the stage before, if any."""
    probs = logits.double().softmax(-1)
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


@dataclass(frozen=True)
class ExplainingSampler(Sampler):
    """Draws what the `Sampler` of the same pipeline draws, for one row, and keeps the reasons in `choices`."""

    nbytes: Callable[[], int] = lambda: 0  # asked at every draw
    choices: list[Choice] = field(default_factory=list)

    def __call__(self, logits: Tensor, history: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """See `Sampler`. Raises ValueError for more rows than one."""
        if len(logits) != 1:
            raise ValueError(
                f"{len(logits)} rows: expected one, since an explanation follows a single text; explain them one by one"
            )
        stages, logits = self._stages(logits, history)
        numbers = uniforms(generators, logits.device)
        drawn = invert(logits, numbers)
        self._keep(stages, logits, float(numbers), int(drawn), None)
        return drawn

    def watch(self, call: Verification) -> None:
        """Keep the reasons for all tokens that a call of the target gave, for the one row of a speculation."""
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
                    stages.append(describe_belief("what the draft left over", left.log(), p))
            self._keep(stages, left.log()[None], float(uniform), token, verdict)

    def _stages(self, logits: Tensor, history: Tensor) -> tuple[list[Stage], Tensor]:
        """The beliefs on the way through the pipeline, and the logits (1, V) at its end."""
        stages = [describe_belief("model", logits[0], None)]
        for transform in self.pipeline:
            before = logits[0].double().softmax(-1)
            logits = transform(logits, history)
            stages.append(describe_belief(str(transform), logits[0], before))
        return stages, logits

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
    """An explanation as text; `more` says what it explains. Numbers keep every bit."""
    rows = [
        choice._asdict()
        | {"stages": [stage._asdict() for stage in choice.stages], "draft": choice.draft and choice.draft._asdict()}
        for choice in choices
    ]
    return json.dumps(more | {"choices": rows}, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> list[Choice]:
    """The choices of an explanation. Raises ValueError where it is none."""
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
    """The choices as a table for people; `piece(token)` is how a token is shown."""
    lines = []
    for number, choice in enumerate(choices, start=1):
        how = "drafted" if choice.draft is not None and choice.draft.accepted else f"drawn at u = {choice.uniform:.4f}"
        lines.append(f"{number:>4}  {piece(choice.token)!r} {how}; the state holds {choice.nbytes:,} bytes")
        if choice.draft is not None:
            token, q, p, u = choice.draft
            verdict = "accepted, since" if choice.draft.accepted else "rejected, since not"
            lines.append(
                f"      the draft said {piece(token)!r} with {q:.3f}, {verdict} {u:.4f} x {q:.3f} < {p:.3f} of the target"
            )
        for stage in choice.stages:
            best = "  ".join(f"{piece(token)!r} {p:.3f}" for token, p in stage.best)
            lines.append(
                f"      {stage.step:<24} {stage.n_possible:>6} left  -{stage.removed:.3f}  H {stage.entropy:.3f}   {best}"
            )
    return "\n".join([*lines, "", LEGEND])


def nucleus() -> str:
    """A table: how many tokens each p keeps of beliefs from certain to flat."""
    lines = [f"{'tokens kept by top-p':<50}" + "".join(f"{p:>8}" for p in NUCLEI) + f"{'exp(H)':>9}"]
    for name, weights in BELIEFS.items():
        logits = torch.tensor([weights], dtype=torch.float64).log()
        kept = [int((TopP(p)(logits, torch.empty(1, 0, dtype=torch.long)) > BANNED).sum()) for p in NUCLEI]
        spread = math.exp(describe_belief(name, logits[0], None).entropy)
        lines.append(f"{name:<50}" + "".join(f"{n:>8}" for n in kept) + f"{spread:>9.1f}")
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """See the module; the exit status."""
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
        + (f"; not number {changed[0]}" if changed else "")
    )
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

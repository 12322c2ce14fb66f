"""On-policy step: the model writes the texts that it then learns from (Agarwal et al. 2024, Gu et al. 2024).

    prompts = batch(i)     rollouts = the model writes after the prompts     update on the rollouts

A model that learns from fixed texts never sees its own mistakes; here it does, and a teacher scores what follows them.
No gradient flows through the choice of tokens. Row r of step i is written with a generator seeded by (seed, i, r), so a
run that is killed and resumed writes the same texts, and a row does not depend on its neighbors. Some rows may stay
those of the corpus (generalized knowledge distillation). Read before: `step`, `decoding/generate.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minillm.constants import EMPTY, IGNORE
from minillm.datasets.batch import Batch
from minillm.decoding.generate import generate
from minillm.decoding.rows import pad_right
from minillm.decoding.sampler import Sampler
from minillm.speed.accelerate import accelerate_writing
from minillm.training.step import GradientStep


class PromptBatch(NamedTuple):
    """Rows of a corpus, whose beginnings are prompts."""

    tokens: Tensor  # (B, T) as in `Batch`
    targets: Tensor
    ends: Tensor  # (B,) the id that ends a text, the same in every row


Rollout = Callable[[nn.Module, PromptBatch, int], Batch]  # (model, batch, step) -> what the step learns from


class OnPolicyStep(GradientStep):
    """A `GradientStep` on rollouts of the model itself."""

    def __init__(self, *parts, rollout: Rollout, **how):  # type: ignore[no-untyped-def]
        """Other parameters as in `GradientStep`."""
        super().__init__(*parts, **how)
        self.rollout = rollout

    def __call__(self, batch: PromptBatch) -> dict[str, float]:
        """Write, then update once. Raises Diverged before any weight has changed."""
        return super().__call__(self.rollout(self.model, batch, self.n_steps))


class Writing:
    """A `Rollout`: the beginning of each row is a prompt, and the model writes on from it until END or a full row."""

    def __init__(self, n_prompt: int, share: float, seed: int, fast: bool):
        """`share`: the probability that a row is written by the model; the other rows stay as they are.

        `n_prompt`: tokens of a prompt; `fast`: use the fast twins.
        """
        self.n_prompt, self.share, self.seed, self.fast = n_prompt, share, seed, fast

    def __call__(self, model: nn.Module, batch: PromptBatch, step: int) -> Batch:
        """The rows to learn from: EMPTY after the end of a text, and IGNORE for targets that nobody wrote."""
        end_id, room = int(batch.ends[0]), batch.tokens.shape[1]
        rows = list(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True))
        generators = [seeded_by(self.seed, step, row) for row in range(len(rows))]
        written = [row for row, own in enumerate(generators) if float(torch.rand((), generator=own)) < self.share]
        prompts = [rows[row][0][: self.n_prompt] for row in written]
        completions = generate(
            accelerate_writing(model) if self.fast else model,
            prompts,
            Sampler(),
            max_new_tokens=room - self.n_prompt,
            generators=[generators[row] for row in written],
            end_id=end_id,
        )
        for row, prompt, completion in zip(written, prompts, completions, strict=True):
            new = completion.tokens + ([end_id] if completion.reason == "end" else [])
            rows[row] = [*prompt, *new][:-1], [*[IGNORE] * (self.n_prompt - 1), *new]
        tokens, targets = (pad_right(part) for part in zip(*rows, strict=True))
        return Batch(tokens, targets.masked_fill(tokens == EMPTY, IGNORE))


def seeded_by(*numbers: int) -> torch.Generator:
    """A generator for these numbers; other numbers, or another order of them, give another one."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))

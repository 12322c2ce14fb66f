"""Validation of a translator: its loss, and the share of held-out sentences that it translates exactly.

    exact_match     share of sentences whose greedy translation equals the right one, to the letter

The loss is teacher-forced: every word is predicted from the true words before it. Here the model continues its own
words, and one wrong article makes a sentence wrong. This strict measure is fair where exactly one translation is right,
as in `datasets/translation.py` (Rajpurkar et al. 2016 use it for answers). Read before: `validation`.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from minillm.constants import IGNORE
from minillm.datasets.pairs import PairBatch
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.evaluation.validation import Validation
from minillm.objectives.loss import Objective
from minillm.tokenizers.tokenizer import Tokenizer


class TranslationValidation(Validation):
    """Measures an encoder-decoder on fixed batches."""

    def __init__(self, batches: Iterable[PairBatch], objective: Objective, *, n_bytes: int, tokenizer: Tokenizer):
        """`n_bytes`: UTF-8 bytes of the targets."""
        super().__init__(batches, objective, n_bytes=n_bytes, source_nats=None)
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """val_loss, bits_per_byte and exact_match."""
        right = [translated == wanted for batch in self.batches for translated, wanted in self.translate(model, batch)]
        return super().__call__(model) | {"exact_match": sum(right) / len(right)}

    def translate(self, model: nn.Module, batch: PairBatch) -> list[tuple[str | None, str]]:
        """For each row: the greedy translation (None if it did not end) and the right one."""
        source, n_rows = batch.source.to(next(model.parameters()).device), len(batch.source)
        computing, _ = self.prepare(model, self.objective)
        completions = generate(
            computing,
            [[self.tokenizer.end_id]] * n_rows,
            Sampler(build_pipeline(SamplingConfig(temperature=0.0))),
            max_new_tokens=batch.targets.shape[1] + 1,
            generators=seeded(range(n_rows)),
            end_id=self.tokenizer.end_id,
            start=partial(computing.start, source=source),
        )
        wanted = [self.tokenizer.decode(row[row != IGNORE].tolist()) for row in batch.targets]
        written = [self.tokenizer.decode(done.tokens) if done.reason == "end" else None for done in completions]
        return list(zip(written, wanted, strict=True))

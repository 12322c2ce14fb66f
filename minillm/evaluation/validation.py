"""Validation: one fixed, full pass over held-out text, with every token counted once.

    val_loss        mean nats per token: comparable between models with the same tokenizer
    bits_per_byte   the same text's total bits over its bytes: comparable between tokenizers
    regret          val_loss minus the source's own, where the source is known: the avoidable part of the loss

subtle: a model that never saw the held-out text cannot beat its source by much. For every model q, E_p[q(text) /
p(text)] <= 1, so by Markov's inequality q is ahead of p by t nats in total with probability at most e^-t. Twenty nats
mean leakage. Entropy as the least loss: Shannon 1948.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from minillm.datasets.batch import Batch, moved
from minillm.models.language_model import device_of, evaluating
from minillm.objectives.loss import Loss, Objective, mean_metrics
from minillm.speed.accelerate import accelerate, faster

LEAK_NATS = 20.0  # an advantage over the source that chance gives once in e^20 runs
ERRORS = 6.0  # tolerance for an estimate of the source's nats, in standard errors


class Leak(ValueError):
    """The model predicts the held-out text better than its own source can."""


class Validation:
    """Measures a model on fixed batches."""

    def __init__(
        self,
        batches: Iterable[Batch],
        objective: Objective,
        *,
        n_bytes: int | None,
        source_nats: float | None,
        source_error: float = 0.0,
    ):
        """Optional arguments are None if they are unknown.

        `n_bytes`: UTF-8 bytes of the text, if all of it is predicted; `source_nats`: minus its log probability under
        the source; `source_error`: the standard error of an estimated `source_nats`.
        """
        self.batches, self.objective = list(batches), objective
        self.n_bytes, self.source_nats = n_bytes, source_nats
        self.leak_nats = LEAK_NATS + ERRORS * source_error
        self.prepare: Callable[[nn.Module, Objective], tuple[nn.Module, Objective]] = lambda *plain: plain

    def accelerated(self) -> "Validation":
        """Use fast twins from now on, while their signatures hold; return the validation."""
        self.prepare = lambda model, objective: (accelerate(model), faster(objective))
        return self

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """val_loss and, where known, the objective's metrics, bits_per_byte, source_loss and regret. Raises Leak."""
        losses = self._losses(model)
        total, count = sum(float(loss.total) for loss in losses), sum(float(loss.count) for loss in losses)
        metrics = {"val_loss": total / count} | {f"val_{name}": mean for name, mean in mean_metrics(losses).items()}
        if self.n_bytes is not None:
            metrics |= {"bits_per_byte": total / math.log(2) / self.n_bytes}
        if self.source_nats is not None:
            metrics |= {"source_loss": self.source_nats / count, "regret": (total - self.source_nats) / count}
            if total < self.source_nats - self.leak_nats:
                raise Leak(
                    f"regret = {metrics['regret']:.4f} nats per token on the held-out text: expected none below zero, "
                    "since no model can predict a text better than its source; training text must have leaked into "
                    "validation: keep the splits apart"
                )
        return metrics

    def sampled(self, n_tokens: int) -> "Validation":
        """A validation of the loss alone on a fixed sample of about `n_tokens` tokens, or on all if there are fewer.

        Bits per byte and regret are known for the whole text only.
        """
        rows = sample_rows(self.batches, n_tokens)
        n_bytes, source_nats = (self.n_bytes, self.source_nats) if rows is self.batches else (None, None)
        sampled = Validation(rows, self.objective, n_bytes=n_bytes, source_nats=source_nats)
        sampled.prepare = self.prepare
        return sampled

    def _losses(self, model: nn.Module) -> list[Loss]:
        """The loss of every batch, in eval mode."""
        device = device_of(model)
        with evaluating(model):
            computing, objective = self.prepare(model, self.objective)
            return [objective(computing, moved(batch, device)) for batch in self.batches]


def sample_rows(batches: list[Batch], n_tokens: int) -> list[Batch]:
    """Every k-th row of all batches, starting with the first; the least k that leaves about `n_tokens`."""
    k = -(-sum(batch[0].numel() for batch in batches) // max(n_tokens, 1))
    if k <= 1:
        return batches
    chosen, n_before = [], 0
    for batch in batches:
        rows = slice(-n_before % k, None, k)
        n_before += len(batch[0])
        if rows.start < len(batch[0]):
            chosen.append(type(batch)(*(part[rows] for part in batch)))
    return chosen

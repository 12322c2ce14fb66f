"""Memorization: whether a model has learned its text by heart rather than what holds for other text.

A window counts as known by heart when the model, given its first half, writes the second half word for word by greedy
decoding (Carlini et al. 2021 call such text extractable). One forward pass tells: greedy decoding writes exactly the
true tokens if and only if each of them is the most probable one after the true tokens before it. A model knows the
text by heart when this holds for half of the training windows at least, and for at most half as large a share of the
validation windows: text that repeats itself, or follows from rules, is continued word for word in both. Of weights
that were not kept the two losses tell as much.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch, moved
from minillm.datasets.tokens import TokenStream
from minillm.datasets.windows import evaluation_batches
from minillm.evaluation.validation import sample_rows
from minillm.models.language_model import device_of

WINDOW = 64  # tokens: half of them are given, half are to be written
LEAST = 8  # tokens of a window that counts
N_WINDOWS = 64  # that are tried, evenly spread over a text
FAR = 0.5  # a training loss of at most this share of the validation loss: the model begins to learn the text by heart
BY_HEART = 0.1  # and of this share: it has


class Recital(NamedTuple):
    """Count of windows that a model continues word for word, and of all windows tried."""

    known: int
    tried: int

    @property
    def share(self) -> float:
        return self.known / max(self.tried, 1)


def recite(model: nn.Module, stream: TokenStream, context_length: int, whole_documents: bool) -> Recital:
    """Try windows that are spread evenly over a text; `model` is in eval mode."""
    batches = evaluation_batches(stream, min(context_length, WINDOW), N_WINDOWS, whole_documents)
    tried = [_known(model, moved(batch, device_of(model))) for batch in sample_rows(batches, WINDOW * N_WINDOWS)]
    return Recital(sum(known for known, _ in tried), sum(n for _, n in tried))


@torch.inference_mode()
def _known(model: nn.Module, batch: Batch) -> tuple[int, int]:
    counted = batch.targets != IGNORE  # (B, T)
    lengths, right = counted.sum(1), model(batch.tokens)[0].argmax(-1) == batch.targets
    given = torch.arange(batch.targets.shape[1], device=lengths.device) < lengths[:, None] // 2
    long_enough = lengths >= LEAST
    known = (right | given | ~counted).all(1) & long_enough
    return int(known.sum()), int(long_enough.sum())


def recited(train: Recital, val: Recital) -> str:
    """A sentence, if a model that recites so much knows its training text by heart; empty otherwise."""
    if train.share < 0.5 or val.share > train.share / 2:
        return ""
    return (
        "it has learned the text by heart: given the first half of a window, it writes the second half word for word "
        f"in {train.known} of {train.tried} windows of the training text, and in {val.known} of {val.tried} of the "
        "validation text"
    )


def overfitted(rows: Sequence[dict[str, Any]], best_step: int) -> str:
    """A sentence on what came after the best validation, by the rows of metrics.jsonl; empty where nothing did."""
    val = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    last_step = max(val, default=best_step)
    losses = [row["loss"] for row in rows if "loss" in row]
    if best_step not in val or last_step <= best_step or not losses:
        return ""
    best = f"{val[best_step]:.3f} at step {best_step:,}, whose weights are kept"
    if losses[-1] > FAR * val[last_step]:
        return f"validation was best with {best}; step {last_step:,} had {val[last_step]:.3f}"
    learned = "has learned" if losses[-1] <= BY_HEART * val[last_step] else "has begun to learn"
    return (
        f"it {learned} the text by heart: at step {last_step:,} its loss was {losses[-1]:.3f} on the training text and "
        f"{val[last_step]:.3f} on the validation text, where the best was {best}; more text is what helps"
    )

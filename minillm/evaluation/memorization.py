"""Memorization: whether a model has memorized its training text instead of learning what holds for other text too.

A window is memorized if the model, given its first half, generates its second half exactly by greedy decoding (Carlini
et al. 2021 call such text extractable). One forward pass decides: greedy decoding generates the true tokens if and only
if each of them is the most probable one after the true tokens before it. A model has memorized its text if this holds
for at least half of the training windows, and for at most half as large a share of the validation windows: text that
repeats itself or follows rules is continued exactly in both. For weights that were not kept, the training and
validation losses decide. Read before: `validation`.
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

WINDOW = 64  # tokens: half of them are given, half are to be predicted
LEAST = 8  # least number of tokens in a window that counts
N_WINDOWS = 64  # windows that are tried, evenly spread over a text
BEGINNING = 0.5  # greatest training loss, as a share of the validation loss, that shows beginning memorization
MEMORIZED = 0.1  # the same for completed memorization


class Memorized(NamedTuple):
    """Number of windows that a model continues exactly, and number of windows tried."""

    known: int
    tried: int

    @property
    def share(self) -> float:
        return self.known / max(self.tried, 1)


def count_memorized(model: nn.Module, stream: TokenStream, context_length: int, whole_documents: bool) -> Memorized:
    """Try windows spread evenly over a text; `model` is in eval mode."""
    batches = evaluation_batches(stream, min(context_length, WINDOW), N_WINDOWS, whole_documents)
    tried = [_known(model, moved(batch, device_of(model))) for batch in sample_rows(batches, WINDOW * N_WINDOWS)]
    return Memorized(sum(known for known, _ in tried), sum(n for _, n in tried))


@torch.inference_mode()
def _known(model: nn.Module, batch: Batch) -> tuple[int, int]:
    counted = batch.targets != IGNORE  # (B, T)
    lengths, right = counted.sum(1), model(batch.tokens)[0].argmax(-1) == batch.targets
    given = torch.arange(batch.targets.shape[1], device=lengths.device) < lengths[:, None] // 2
    long_enough = lengths >= LEAST
    known = (right | given | ~counted).all(1) & long_enough
    return int(known.sum()), int(long_enough.sum())


def memorization_remark(train: Memorized, val: Memorized) -> str:
    """A sentence if these counts show that the training text is memorized; "" otherwise."""
    if train.share < 0.5 or val.share > train.share / 2:
        return ""
    return (
        "the model has memorized the text: given the first half of a window, it writes the second half word for word "
        f"in {train.known} of {train.tried} windows of the training text, and in {val.known} of {val.tried} of the "
        "validation text"
    )


def overfitting_remark(rows: Sequence[dict[str, Any]], best_step: int) -> str:
    """A sentence on the steps after the best validation, from the rows of metrics.jsonl; "" if there are none."""
    val = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    last_step = max(val, default=best_step)
    losses = [row["loss"] for row in rows if "loss" in row]
    if best_step not in val or last_step <= best_step or not losses:
        return ""
    best = f"{val[best_step]:.3f} at step {best_step:,}, whose weights are kept"
    if losses[-1] > BEGINNING * val[last_step]:
        return f"validation was best with {best}; step {last_step:,} had {val[last_step]:.3f}"
    how = "has memorized" if losses[-1] <= MEMORIZED * val[last_step] else "has begun to memorize"
    return (
        f"the model {how} the text: at step {last_step:,} its loss was {losses[-1]:.3f} on the training text and "
        f"{val[last_step]:.3f} on the validation text, where the best was {best}; more text would help"
    )

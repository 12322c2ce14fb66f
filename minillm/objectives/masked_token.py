"""Masked-token prediction: predict the tokens that were masked (Devlin et al. 2019; the cloze test is Taylor 1953).

    loss = - sum over blanks of log p(token | the text with its blanks)

Blanks are the masked places. Only they are counted, and only their vectors go through the head. With one blank in seven
tokens this saves six sevenths of the largest matrix product of a small model. Next-sentence prediction adds one
question per row: does the second text follow the first? Read `datasets/masking.py` and `datasets/next_sentence.py`
before.
"""

from torch import Tensor, nn

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.datasets.next_sentence import SegmentBatch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def masked_token(model: nn.Module, batch: Batch) -> Loss:
    """Sum the nats of every blank under the model; the metric is the accuracy at blanks."""
    total, count, correct = _blanks(model, model.hidden(batch.tokens), batch.targets)
    return Loss(total, count, {"masked_accuracy": (correct, count)})


def masked_token_and_next_sentence(model: nn.Module, batch: SegmentBatch) -> Loss:
    """`masked_token` plus next-sentence prediction; one pair weighs as much as `model.next_sentence` blanks."""
    hidden, weight = model.hidden(batch.tokens, batch.segments), model.config.next_sentence
    total, count, correct = _blanks(model, hidden, batch.targets)
    answers = model.follows(hidden, batch.tokens)  # (B, 2)
    surprise, n_pairs = cross_entropy(answers, batch.follows)
    right = (answers.argmax(-1) == batch.follows).sum()
    metrics = {
        "masked_loss": (total.detach(), count),
        "masked_accuracy": (correct, count),
        "next_sentence_accuracy": (right, n_pairs),
    }
    return Loss(total + weight * surprise, count + weight * n_pairs, metrics)


def _blanks(model: nn.Module, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of nats, number of blanks, and number of blanks at which the true token has the highest logit."""
    counted = targets != IGNORE
    logits, targets = model.head(hidden[counted]), targets[counted]  # (N, V), (N,)
    return *cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()

"""Classification: assign each text to one of a few classes.

    loss = - log softmax(logits of the text)[its label]

There is one label per text, so the loss counts texts, not tokens. Read `models/heads.py` before.
"""

from torch import nn

from minillm.datasets.labels import LabelBatch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def classification(model: nn.Module, batch: LabelBatch) -> Loss:
    """Sum the nats of every label under the model; the metric is the accuracy."""
    logits = model(batch.tokens)  # (B, C)
    total, count = cross_entropy(logits, batch.labels)
    return Loss(total, count, {"accuracy": ((logits.argmax(-1) == batch.labels).sum(), count)})

"""Classification: which of a few classes does a text belong to?

    loss = - log softmax(logits of the text)[its label]

One question a text, so what is counted are texts, not tokens. Read `models/heads.py` before.
"""

from torch import nn

from minillm.datasets.labels import LabelBatch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def classification(model: nn.Module, batch: LabelBatch) -> Loss:
    """Nats of every label under the model, summed."""
    logits = model(batch.tokens)  # (B, C)
    total, count = cross_entropy(logits, batch.labels)
    return Loss(total, count, {"accuracy": ((logits.argmax(-1) == batch.labels).sum(), count)})

"""Next-token prediction: the objective of every language model, from the n-gram table on (Shannon 1948).

The targets are already the next tokens, since `datasets/windows.py` shifts once; nothing is shifted here.
"""

from torch import nn

from minillm.datasets.batch import Batch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def next_token(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Loss:
    """Nats of every counted target under the model, summed."""
    logits, _ = model(batch.tokens)
    return Loss(*cross_entropy(logits, batch.targets, smoothing=smoothing))

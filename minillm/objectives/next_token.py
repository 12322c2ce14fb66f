"""Next-token prediction: the objective of language models, from n-gram tables to transformers (Shannon 1948).

    loss = - sum over t of log p(token t + 1 | tokens 0 ... t)

The targets are already the next tokens: `datasets/windows.py` shifts them once, and nothing is shifted here. Read
`cross_entropy` before.
"""

from torch import nn

from minillm.datasets.batch import Batch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def next_token(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Loss:
    """Sum the nats of every counted target under the model."""
    logits, _ = model(batch.tokens)  # (B, T, V)
    return Loss(*cross_entropy(logits, batch.targets, smoothing))

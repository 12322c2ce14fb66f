"""Sequence to sequence: predict the next word of a translation, given the source and the words before it.

    loss = - sum over t of log p(word t + 1 | source, words 0 ... t)                        Sutskever et al. 2014

The decoder reads the true previous words, not its own predictions (teacher forcing), so all positions of a sentence are
trained at once.
"""

from torch import nn

from minillm.datasets.pairs import PairBatch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def seq2seq(model: nn.Module, batch: PairBatch, smoothing: float = 0.0) -> Loss:
    """Sum the nats of every counted target under the model, given its source."""
    logits, _ = model(batch.tokens, source=batch.source)  # (B, T, V)
    return Loss(*cross_entropy(logits, batch.targets, smoothing))

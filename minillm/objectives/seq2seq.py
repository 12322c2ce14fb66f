"""Sequence to sequence: the next word of a translation, given the whole source and the words before (Sutskever et al. 2014).

The decoder reads the true words before, never its own (teacher forcing), so all places of a sentence are learned at once.
"""

from torch import nn

from minillm.datasets.pairs import PairBatch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.loss import Loss


def seq2seq(model: nn.Module, batch: PairBatch, smoothing: float = 0.0) -> Loss:
    """Nats of every counted target under the model, given its source, summed."""
    logits, _ = model(batch.tokens, source=batch.source)
    return Loss(*cross_entropy(logits, batch.targets, smoothing=smoothing))

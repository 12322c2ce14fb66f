"""Fast losses of tokens: the objectives with the fast cross-entropy that fits the size of their logits.

A batch of up to `LARGE` logits is given to `chunked_cross_entropy`. Where there would be more, and they are nothing
but the last hidden vectors times one matrix, `linear_cross_entropy` computes head and loss together, slab by slab.
That leaves the model's own forward and its head out, so it happens only for an accelerated tree in which both have
a twin, and so no hook, no adapter and no edit.

Gain: that of the two.
"""

from torch import Tensor, nn

from minillm.datasets.batch import Batch
from minillm.datasets.pairs import PairBatch
from minillm.models.rnn import ReadingOn
from minillm.objectives.loss import Loss
from minillm.speed.chunked_cross_entropy import chunked_cross_entropy
from minillm.speed.linear_cross_entropy import SLAB, FastDecoder, FastRNN, linear_cross_entropy

LARGE = 4 * SLAB  # logits of one call: 256 MB of float32, and as much again for their gradient


def fast_next_token(model: nn.Module, batch: Batch, smoothing: float = 0.0, large: int = LARGE) -> Loss:
    """Compute `next_token`. No more than `large` logits are held at once where the head allows it."""
    weight = head_weight(model)
    if weight is not None and batch.tokens.numel() * len(weight) > large:
        hidden, _ = model.hidden(batch.tokens)
        return Loss(*linear_cross_entropy(hidden, weight, batch.targets, smoothing, slab=min(large, SLAB)))
    logits, _ = model(batch.tokens)
    return Loss(*chunked_cross_entropy(logits, batch.targets, smoothing))


def fast_seq2seq(model: nn.Module, batch: PairBatch, smoothing: float = 0.0) -> Loss:
    """Compute `seq2seq`."""
    logits, _ = model(batch.tokens, source=batch.source)
    return Loss(*chunked_cross_entropy(logits, batch.targets, smoothing))


def head_weight(model: nn.Module | ReadingOn) -> Tensor | None:
    """The matrix (V, D) that turns `model.hidden` into logits, or None where the model's own forward must run."""
    inner = model.model if isinstance(model, ReadingOn) else model
    return inner.head.weight if isinstance(inner, FastDecoder | FastRNN) and inner.head.bias is None else None

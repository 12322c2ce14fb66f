"""Fast token objectives: each uses the fast cross-entropy that fits the number of its logits.

For up to `LARGE` logits it is `chunked_cross_entropy`. For more logits, if they are the last hidden vectors times one
matrix, it is `linear_cross_entropy`, which computes head and loss together, slab by slab. This bypasses the model's
forward and its head. So it is used only in an accelerated tree with twins for both, which have no hook, adapter or
edit.

Gain: that of `chunked_cross_entropy` or `linear_cross_entropy`.
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
    """Compute `next_token`. If the head allows it, at most `large` logits are stored at once."""
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
    """The matrix (V, D) that turns `model.hidden` into logits, or None if the model's own forward must run."""
    inner = model.model if isinstance(model, ReadingOn) else model
    return inner.head.weight if isinstance(inner, FastDecoder | FastRNN) and inner.head.bias is None else None

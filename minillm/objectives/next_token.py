"""Next-token prediction: the objective of every language model, from the n-gram table on (Shannon 1948).

The targets are already the next tokens, since `datasets/windows.py` shifts once; nothing is shifted here.

Where a batch would have very many logits and they are nothing but the last hidden vectors times one matrix, they are never all made:
head and loss are computed together, slab by slab. Read `linear_cross_entropy` for how.
"""

from torch import Tensor, nn

from minillm.datasets.batch import Batch
from minillm.objectives.cross_entropy import cross_entropy
from minillm.objectives.linear_cross_entropy import SLAB, linear_cross_entropy
from minillm.objectives.loss import Loss

LARGE = 4 * SLAB  # logits of one call: 256 MB of float32, and as much again for their gradient


def next_token(model: nn.Module, batch: Batch, smoothing: float = 0.0, large: int = LARGE) -> Loss:
    """Nats of every counted target under the model, summed. No more than `large` logits are held at once where the head allows it."""
    weight = head_weight(model)
    if weight is not None and batch.tokens.numel() * len(weight) > large:
        hidden, _ = model.hidden(batch.tokens)
        return Loss(*linear_cross_entropy(hidden, weight, batch.targets, smoothing, slab=min(large, SLAB)))
    logits, _ = model(batch.tokens)
    return Loss(*cross_entropy(logits, batch.targets, smoothing=smoothing))


def head_weight(model: nn.Module) -> Tensor | None:
    """The matrix (V, D) that turns `model.hidden` into logits; None for a model without one: counts, an adapted or a packed head."""
    plain = type(model.head) is nn.Linear and model.head.bias is None
    return model.head.weight if plain else None

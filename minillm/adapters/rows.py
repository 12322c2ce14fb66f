"""Trained rows: some tokens of a frozen embedding, and of its head, are trained.

    embed(token) + change[token]        logits[token] + change[token] x        change: 0 for all other tokens

A token that the base has never read, such as a new special token, has a random row, and no correction of the layers
above can give it a meaning or make the model write it. A head that is tied to the embedding gets the same rows, and is
still tied after merging. Read before: `inject`.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from minillm.adapters.inject import Adapted


class EmbeddingRows(Adapted):
    """A frozen embedding with n trained rows: tokens (...) -> (..., D)."""

    keeps_ties = True

    def __init__(self, base: nn.Embedding, ids: Tensor):
        """ids: (n,) long, the tokens whose rows are trained."""
        super().__init__(base)
        self.register_buffer("ids", ids, persistent=False)
        self.change = nn.Parameter(base.weight.new_zeros(len(ids), base.embedding_dim))

    @property
    def weight(self) -> Tensor:
        """All rows, (V, D), the trained ones as they are now; a masked head reads them."""
        return self.base.weight.index_add(0, self.ids, self.change)

    def forward(self, tokens: Tensor) -> Tensor:
        chosen = (tokens[..., None] == self.ids).to(self.change.dtype)  # (..., n)
        return self.base(tokens) + chosen @ self.change

    def merged(self) -> nn.Embedding:
        """See `Adapted.merged`."""
        return _changed(self.base, self.ids, self.change)


class HeadRows(Adapted):
    """A frozen head with n trained rows: (..., D) -> logits (..., V)."""

    keeps_ties = True

    def __init__(self, base: nn.Module, ids: Tensor, change: nn.Parameter):
        """change: (n, D), of the embedding if the head is tied to it."""
        super().__init__(base)
        self.register_buffer("ids", ids, persistent=False)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x).index_add(-1, self.ids, x @ self.change.T)

    def merged(self) -> nn.Linear:
        """See `Adapted.merged`."""
        return _changed(self.base, self.ids, self.change)


def with_trained_rows(
    model: nn.Module, rows: Sequence[int], swaps: Mapping[nn.Module, nn.Module]
) -> dict[nn.Module, nn.Module]:
    """Add to the `swaps` of `inject` those of the embedding and the head of a model. Raises ValueError."""
    named = {path.rpartition(".")[2]: layer for path, layer in model.named_modules()}
    embed, head = named.get("embed"), named.get("head")
    if not isinstance(embed, nn.Embedding):
        raise ValueError("adapter.rows: expected a model with an embedding of tokens; leave rows out")
    if max(rows) >= len(embed.weight) or len(set(rows)) < len(rows):
        raise ValueError(
            f"adapter.rows = {list(rows)}: expected different ids below the model's vocab_size = {len(embed.weight)}; "
            "name those of the new tokens"
        )
    ids = torch.tensor(rows, device=embed.weight.device)
    swaps = dict(swaps) | {embed: EmbeddingRows(embed, ids)}
    if isinstance(head, nn.Linear) and len(head.weight) == len(embed.weight):  # not the head of a classifier
        tied = head.weight is embed.weight
        if tied and head in swaps:
            raise ValueError(
                "adapter.rows: expected no target head beside it, since the head is the embedding; leave one out"
            )
        change = swaps[embed].change if tied else nn.Parameter(head.weight.new_zeros(len(rows), head.in_features))
        swaps[head] = HeadRows(swaps.get(head, head), ids, change)
    return swaps


@torch.no_grad()
def _changed(base: nn.Module, ids: Tensor, change: Tensor) -> nn.Module:
    layer = base.merged() if isinstance(base, Adapted) else copy.deepcopy(base)
    layer.weight.index_add_(0, ids, change)
    return layer

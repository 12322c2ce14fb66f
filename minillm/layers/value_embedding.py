"""Value embeddings: what a token says when it is looked at, known from the token alone.

    v = to_v(x) + scale_of_layer * table[token]                            Zhou et al. 2024; Jordan et al. 2024 (modded-nanogpt)

A deep layer's x has mixed in what other tokens said, and to_v must dig the token itself out of it again. The table
hands it over directly, for a lookup and no matrix product. Heads that copy a name from far back then form earlier:
compare the validation loss with that of `python train.py --config gpt-tiny --model.value_embeddings false`.
"""

import torch
from torch import Tensor, nn


class ValueEmbedding(nn.Module):
    """tokens (B, T) -> for each of L layers what is added to its values, (B, T, G K)."""

    def __init__(self, vocab_size: int, width: int, n_layers: int):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.scales = nn.Parameter(torch.ones(n_layers))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        values = self.table(tokens)
        return [scale * values for scale in self.scales]


class NoValueEmbedding(nn.Module):
    """Adds nothing to any layer."""

    def __init__(self, n_layers: int):
        super().__init__()
        self.n_layers = n_layers

    def forward(self, tokens: Tensor) -> list[None]:
        return [None] * self.n_layers

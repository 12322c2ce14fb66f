"""Value embeddings: a learned vector per token, added to the values of every attention layer.

    v = to_v(x) + scale_of_layer * table[token]              Zhou et al. 2024; Jordan et al. 2024 (modded-nanogpt)

In a deep layer, x mixes information from many tokens, and to_v has to recover the token itself. The table supplies it
directly, at the cost of a look-up, without a matrix product. Heads that copy a name from far back then form earlier:
compare the validation loss with that of `python train.py --config gpt-tiny --model.value_embeddings false`.
"""

import torch
from torch import Tensor, nn


class ValueEmbedding(nn.Module):
    """tokens (B, T) -> for each of L layers, the vectors that are added to its values, (B, T, G K)."""

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

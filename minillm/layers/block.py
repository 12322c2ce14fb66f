"""One storey of a transformer: look around, then think, each added to a residual stream.

pre-norm:   x = x + attention(norm(x));   x = x + feedforward(norm(x))       Xiong et al. 2020; trains without warm-up
post-norm:  x = norm(x + attention(x));   x = norm(x + feedforward(x))       Vaswani et al. 2017
"""

from collections.abc import Callable

from torch import Tensor, nn

from minillm.cache.kv_cache import KVCache, Positions
from minillm.layers.attention import Attention
from minillm.layers.dropout import dropout_layer


def of_tokens(feedforward: Callable[[Tensor], Tensor], x: Tensor, positions: Positions) -> Tensor:
    """`feedforward` of the vectors (B, T, D) at which a token stands, 0 at all others: padding costs nothing and no router counts it."""
    if positions.dense:
        return feedforward(x)
    filled = (positions.ids >= 0).expand(x.shape[:2])
    answers = feedforward(x[filled])  # (N, D)
    return answers.new_zeros(x.shape).masked_scatter(filled[..., None], answers)


class PreNormBlock(nn.Module):
    """(B, T, D) -> (B, T, D); the stream itself is never normalized, so the stack needs a norm at its end."""

    def __init__(
        self, attention: Attention, feedforward: nn.Module, norm_1: nn.Module, norm_2: nn.Module, dropout: float = 0.0
    ):
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.feedforward = norm_1, attention, norm_2, feedforward
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, values: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), positions, cache, values))
        return x + self.dropout(of_tokens(self.feedforward, self.norm_2(x), positions))


class PostNormBlock(PreNormBlock):
    """(B, T, D) -> (B, T, D); the stream is normalized after every addition."""

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, values: Tensor | None = None) -> Tensor:
        x = self.norm_1(x + self.dropout(self.attention(x, positions, cache, values)))
        return self.norm_2(x + self.dropout(of_tokens(self.feedforward, x, positions)))


BLOCKS: dict[str, type[PreNormBlock]] = {"pre": PreNormBlock, "post": PostNormBlock}

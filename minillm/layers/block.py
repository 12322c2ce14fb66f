"""One transformer block: attention, then feed-forward, each added to the residual stream.

pre-norm:   x = x + attention(norm(x));   x = x + feedforward(norm(x))       Xiong et al. 2020; trains without warm-up
post-norm:  x = norm(x + attention(x));   x = norm(x + feedforward(x))       Vaswani et al. 2017
both:       x = x + norm(attention(norm(x)));   x = x + norm(feedforward(norm(x)))       Gemma Team 2024 (Gemma 2)

In training, dropout sets each number of an addend to 0 with probability p and multiplies the others by 1 / (1 - p)
(Srivastava et al. 2014). Read before: `attention`, `feedforward`, `norm`.
"""

from collections.abc import Callable

from torch import Tensor, nn

from minillm.cache.kv_cache import KVCache, Positions
from minillm.layers.attention import Attention


def of_tokens(feedforward: Callable[[Tensor], Tensor], x: Tensor, positions: Positions) -> Tensor:
    """Apply `feedforward` to the vectors of x (B, T, D) that belong to a token; the output is 0 at padding.

    So padding costs no computation, and no router counts it.
    """
    if positions.dense:
        return feedforward(x)
    filled = (positions.ids >= 0).expand(x.shape[:2])
    answers = feedforward(x[filled])  # (N, D)
    return answers.new_zeros(x.shape).masked_scatter(filled[..., None], answers)


class PreNormBlock(nn.Module):
    """(B, T, D) -> (B, T, D). The residual stream itself is not normalized, so a stack of blocks needs a final norm."""

    def __init__(
        self, attention: Attention, feedforward: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0
    ):
        """`norm()` builds one norm."""
        super().__init__()
        self.norm_1, self.attention, self.norm_2, self.feedforward = norm(), attention, norm(), feedforward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, values: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), positions, cache, values))
        return x + self.dropout(of_tokens(self.feedforward, self.norm_2(x), positions))


class PostNormBlock(PreNormBlock):
    """(B, T, D) -> (B, T, D). The residual stream is normalized after every addition."""

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, values: Tensor | None = None) -> Tensor:
        x = self.norm_1(x + self.dropout(self.attention(x, positions, cache, values)))
        return self.norm_2(x + self.dropout(of_tokens(self.feedforward, x, positions)))


class DoubleNormBlock(PreNormBlock):
    """(B, T, D) -> (B, T, D). The input and the output of each sublayer are normalized, the residual stream is not."""

    def __init__(
        self, attention: Attention, feedforward: nn.Module, norm: Callable[[], nn.Module], dropout: float = 0.0
    ):
        super().__init__(attention, feedforward, norm, dropout)
        self.norm_of_attention, self.norm_of_feedforward = norm(), norm()

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, values: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.norm_of_attention(self.attention(self.norm_1(x), positions, cache, values)))
        changed = of_tokens(self.feedforward, self.norm_2(x), positions)
        return x + self.dropout(self.norm_of_feedforward(changed))


BLOCKS: dict[str, type[PreNormBlock]] = {"pre": PreNormBlock, "post": PostNormBlock, "both": DoubleNormBlock}

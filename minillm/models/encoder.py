"""The encoder-only transformer: every token sees all others, on both sides (BERT, Devlin et al. 2019).

    x = norm(embed(token) + position + segment);   x = block(x) for every block;   logits = head(x)

It cannot write, since what it predicts it must not see; it reads. It learns by filling in blanks: some tokens are replaced by
[MASK] and guessed from what stands before and after them (see `datasets/masking.py`). [MASK] is an id of the model's own, the one
after the tokenizer's last, so no text can contain it. Read `decoder` before: the parts are the same, with causal=False.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from minillm.cache.kv_cache import NO_CACHE
from minillm.config.fields import Above, AtLeast, Between, Count, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.block import PostNormBlock, PreNormBlock
from minillm.layers.dropout import dropout_layer
from minillm.layers.feedforward import ACTIVATIONS, MLP
from minillm.layers.norm import LayerNorm, NoNorm
from minillm.layers.positions import LearnedPositions, NoPositions, Rotary, no_rotation, positions_of
from minillm.models.heads import MaskedHead, PooledHead

N_SEGMENTS = 2  # first and second text of a pair


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; the defaults are BERT's way."""

    kind: Literal["encoder"] = "encoder"  # what the model is
    n_layers: Positive = 4  # blocks
    d_model: Positive = 128  # width of the residual stream
    n_heads: Positive = 4  # heads of each attention
    d_ff: Count = 0  # hidden width of the feed-forward; 0: 4 x d_model
    context_length: Positive = 256  # most tokens that the model reads at once
    positions: Literal["learned", "rotary"] = "learned"  # how order is told
    norm_place: Literal["pre", "post"] = "post"  # before each sublayer (and once at the end), or after each addition
    norm_eps: Annotated[float, Above(0)] = 1e-12  # added to the variance
    feedforward: Literal["gelu-erf", "gelu", "relu", "relu2"] = (
        "gelu-erf"  # activation of the feed-forward and of the masked head
    )
    next_sentence: Count = (
        0  # also learn whether a second text follows a first: the blanks that one such answer counts for; 0: do not
    )
    dropout: Annotated[float, Between(0, 0.99)] = (
        0.0  # of embeddings, attention weights, sublayer outputs and pooled vectors
    )
    init_std: Annotated[float, AtLeast(0)] = 0.02  # of the normal distribution that weights start from
    init_embed: Annotated[float, AtLeast(0)] = 0.02  # the same for embeddings

    def __post_init__(self) -> None:
        validate(self)
        if self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model = {self.d_model}: expected a multiple of n_heads = {self.n_heads}; change one of the two"
            )
        if self.next_sentence and self.context_length < 6:
            raise ValueError(
                f"model.context_length = {self.context_length}: expected at least 6, room for two texts; raise it"
            )


class Encoder(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): at each place, a score for every token that could stand there.

    An id of EMPTY (-1), anywhere in a row, is a place where no token stands; its logits mean nothing.
    """

    def __init__(self, config: EncoderConfig, vocab_size: int):
        """`vocab_size` counts the tokenizer's ids; [MASK] comes on top."""
        super().__init__()
        c, d_head = config, config.d_model // config.n_heads
        self.config, self.context_length = c, c.context_length
        self.mask_id, self.vocab_size = vocab_size, vocab_size + 1
        activation, norm = ACTIVATIONS[c.feedforward], partial(LayerNorm, c.d_model, eps=c.norm_eps)
        rotate = Rotary(d_head, c.context_length) if c.positions == "rotary" else no_rotation
        block = {"pre": PreNormBlock, "post": PostNormBlock}[c.norm_place]

        def attention() -> Attention:
            options = {"bias": True, "causal": False, "rotate": rotate, "dropout": c.dropout}
            return Attention(c.d_model, c.n_heads, c.n_heads, d_head, **options)

        def feedforward() -> MLP:
            return MLP(c.d_model, c.d_ff or 4 * c.d_model, activation, bias=True)

        self.embed = nn.Embedding(self.vocab_size, c.d_model)
        self.embed_positions = (
            LearnedPositions(c.context_length, c.d_model) if c.positions == "learned" else NoPositions()
        )
        self.embed_segments = nn.Embedding(N_SEGMENTS, c.d_model)
        self.embed_norm, self.dropout = norm(), dropout_layer(c.dropout)
        self.blocks = nn.ModuleList(
            block(attention(), feedforward(), norm(), norm(), c.dropout) for _ in range(c.n_layers)
        )
        self.norm = norm() if c.norm_place == "pre" else NoNorm(c.d_model)
        gain = c.init_std / c.init_embed if c.init_embed > c.init_std else 1.0
        self.head = MaskedHead(self.embed, activation, c.norm_eps, gain)
        self._initialize()
        self.follows = PooledHead(c.d_model, 2, c.dropout, c.init_std) if c.next_sentence else None

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Raises ValueError where a row is longer than the context."""
        return self.head(self.hidden(tokens, segments))

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """What each token means where it stands: (B, T) -> (B, T, D). `segments` (B, T) are 0, or 1 in the second text of a pair."""
        positions = positions_of(tokens, self.context_length)  # (B or 1, T)
        segments = torch.zeros_like(tokens) if segments is None else segments
        x = self.embed(tokens.clamp(min=0)) + self.embed_positions(positions.ids) + self.embed_segments(segments)
        x = self.dropout(self.embed_norm(x))  # (B, T, D)
        for block in self.blocks:
            x = block(x, positions, NO_CACHE)
        return self.norm(x)

    def _initialize(self) -> None:
        """Normal weights, zero biases."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(
                    parameter, std=self.config.init_embed if name.startswith("embed") else self.config.init_std
                )
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

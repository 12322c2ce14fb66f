"""The encoder-only transformer: every token attends to all tokens on both sides (BERT, Devlin et al. 2019).

    x = norm(embed(token) + position + segment);   x = block(x) for every block;   logits = head(x)

It cannot generate text from left to right, since each prediction uses the tokens after it. It is trained as a masked
language model: some tokens are replaced by [MASK] and predicted from the tokens before and after them (see
`datasets/masking.py`). Unless the vocabulary has one, the model adds the id of [MASK] after the tokenizer's last id, so
no text contains it. Read before: `decoder`, which has the same parts, with causal=True.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from minillm.cache.kv_cache import NO_CACHE
from minillm.config.fields import Above, AtLeast, Between, Choice, Count, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.block import BLOCKS
from minillm.layers.feedforward import ACTIVATIONS, MLP
from minillm.layers.norm import LayerNorm, NoNorm
from minillm.layers.positions import POSITIONS, PositionalEncoding, Sizes, positions_of
from minillm.models.heads import MaskedHead, NoMaskedHead, PooledHead

N_SEGMENTS = 2  # first and second text of a pair


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; the defaults follow BERT."""

    kind: Literal["encoder"] = "encoder"  # what the model is
    n_layers: Positive = 4  # blocks
    d_model: Positive = 128  # width of the residual stream
    n_heads: Positive = 4  # heads of each attention
    d_ff: Count = 0  # hidden width of the feed-forward; 0: 4 x d_model
    context_length: Positive = 256  # maximum number of tokens of a text
    # subtle: no ALiBi, which has distances without direction, so a text and its reverse would look the same
    positions: Literal["learned", "rotary"] = "learned"  # positional encoding
    norm_place: Annotated[str, Choice(BLOCKS)] = (
        "post"  # before each sublayer (and at the end), after each addition, or around
    )
    norm_eps: Annotated[float, Above(0)] = 1e-12  # added to the variance
    feedforward: Annotated[str, Choice(ACTIVATIONS)] = (
        "gelu-erf"  # activation of the feed-forward and of the masked head
    )
    next_sentence: Count = (
        0  # weight of next-sentence prediction, in masked tokens that one answer counts for; 0: masked tokens only
    )
    masked_head: bool = True  # predicts the token at each place; false: hidden vectors only
    mask_id: Count = 0  # id of [MASK], if it is in the tokenizer's vocabulary; 0: one more id, after the last
    dropout: Annotated[float, Between(0, 0.99)] = (
        0.0  # probability, for embeddings, attention weights, sublayer outputs and pooled vectors
    )
    init_std: Annotated[float, AtLeast(0)] = 0.02  # standard deviation of initial weights
    init_embed: Annotated[float, AtLeast(0)] = 0.02  # standard deviation of initial embeddings

    def __post_init__(self) -> None:
        validate(self)
        if self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model = {self.d_model}: expected a multiple of n_heads = {self.n_heads}; "
                "change one of the two"
            )
        if self.next_sentence and self.context_length < 6:
            raise ValueError(
                f"model.context_length = {self.context_length}: expected at least 6, room for two texts; raise it"
            )


class Encoder(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): at each place, a score for every token that could be there.

    EMPTY (-1), anywhere in a row, marks padding; its logits have no meaning.
    """

    def __init__(self, config: EncoderConfig, vocab_size: int):
        """`vocab_size`: number of ids of the tokenizer, without [MASK]."""
        super().__init__()
        c = config
        self.config, self.context_length = c, c.context_length
        self.mask_id, self.vocab_size = (c.mask_id, vocab_size) if c.mask_id else (vocab_size, vocab_size + 1)
        activation = ACTIVATIONS[c.feedforward]
        self.embed = nn.Embedding(self.vocab_size, c.d_model)
        order = POSITIONS[c.positions](Sizes(c.context_length, c.d_model, c.n_heads, c.d_model // c.n_heads))
        self.embed_positions = order.embed
        self.embed_segments = nn.Embedding(N_SEGMENTS, c.d_model)
        self.embed_norm, self.dropout = build_norm(c), nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(build_block(c, order) for _ in range(c.n_layers))
        self.norm = NoNorm(c.d_model) if c.norm_place == "post" else build_norm(c)
        gain = c.init_std / c.init_embed if c.init_embed > c.init_std else 1.0
        self.head = MaskedHead(self.embed, activation, c.norm_eps, gain) if c.masked_head else NoMaskedHead()
        self._initialize()
        self.follows = PooledHead(c.d_model, 2, c.dropout, c.init_std) if c.next_sentence else None

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Logits (B, T, V). Raises ValueError if a row is longer than the context."""
        return self.head(self.hidden(tokens, segments))

    def hidden(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Hidden vectors: tokens (B, T) -> (B, T, D). `segments` (B, T): 0, or 1 in the second text of a pair."""
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


def build_block(c: EncoderConfig, order: PositionalEncoding) -> nn.Module:
    """One block: bidirectional attention and a feed-forward, each with its norm."""
    how = {"causal": False, "bias": True, "dropout": c.dropout, "rotate": order.rotate, "score_bias": order.score_bias}
    attention = Attention(c.d_model, c.n_heads, c.n_heads, c.d_model // c.n_heads, **how)
    feedforward = MLP(c.d_model, c.d_ff or 4 * c.d_model, ACTIVATIONS[c.feedforward], bias=True)
    return BLOCKS[c.norm_place](attention, feedforward, partial(build_norm, c), c.dropout)


def build_norm(c: EncoderConfig) -> LayerNorm:
    """A norm of the residual stream."""
    return LayerNorm(c.d_model, eps=c.norm_eps)

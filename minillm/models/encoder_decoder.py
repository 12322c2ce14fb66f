"""The encoder-decoder transformer: an encoder reads the source, and a decoder writes the target and attends to it.

    memory = encoder(embed(source) sqrt(D) + position)          every source token attends to all others
    x = x + attention(x);   x = x + cross(x, memory);   x = x + feedforward(x)      in every block of the decoder
    logits = x embed^T                                          source, target and head share one matrix

Vaswani et al. 2017, with dropout, LayerNorm after every addition (post-norm, theirs) or before every sublayer
(pre-norm). The source is encoded once. The state keeps its keys and values for each block of the decoder, next to the
KV caches of the target. Read before: `decoder`, and `minillm/lessons/encoder_decoder.py`, the same model on one page;
tests hold the two equal.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import NO_CACHE, KVCache, KVView, Positions
from minillm.config.fields import Above, Between, Choice, Count, Positive, validate
from minillm.layers.attention import Attention, attend_plainly
from minillm.layers.block import BLOCKS
from minillm.layers.feedforward import ACTIVATIONS, MLP
from minillm.layers.norm import LayerNorm, NoNorm
from minillm.layers.positions import SinusoidalPositions, positions_of
from minillm.models.cached_state import CachedState


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """The shape of an encoder-decoder."""

    kind: Literal["encoder_decoder"] = "encoder_decoder"  # what the model is
    n_layers: Positive = 6  # blocks of the encoder, and of the decoder
    d_model: Positive = 512  # width of the residual stream
    n_heads: Positive = 8  # heads of each attention
    d_ff: Count = 0  # hidden width of the feed-forward; 0: 4 x d_model
    context_length: Positive = 256  # maximum number of tokens of a source, and of a target
    norm_place: Literal["post", "pre"] = "post"  # after each addition, or before each sublayer (and once at each end)
    norm_eps: Annotated[float, Above(0)] = 1e-5  # added to the variance
    feedforward: Annotated[str, Choice(ACTIVATIONS)] = "relu"  # activation of the feed-forward
    bias: bool = True  # biases in linear layers and LayerNorm
    dropout: Annotated[float, Between(0, 0.99)] = 0.1  # probability, for embeddings, attention and sublayers

    def __post_init__(self) -> None:
        validate(self)
        if self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model = {self.d_model}: expected a multiple of n_heads = {self.n_heads}; "
                "change one of the two"
            )


class PreNormCrossBlock(nn.Module):
    """Decoder block, pre-norm: self-attention, cross-attention to the source, feed-forward. (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        attention: Attention,
        cross: Attention,
        feedforward: nn.Module,
        norm: Callable[[], nn.Module],
        dropout: float,
    ):
        super().__init__()
        self.norm_1, self.attention = norm(), attention
        self.norm_2, self.cross = norm(), cross
        self.norm_3, self.feedforward = norm(), feedforward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, source: KVView) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), positions, cache))
        x = x + self.dropout(self.cross.look(self.norm_2(x), positions, source))
        return x + self.dropout(self.feedforward(self.norm_3(x)))


class PostNormCrossBlock(PreNormCrossBlock):
    """Decoder block, post-norm: the residual stream is normalized after every addition. (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, positions: Positions, cache: KVCache, source: KVView) -> Tensor:
        x = self.norm_1(x + self.dropout(self.attention(x, positions, cache)))
        x = self.norm_2(x + self.dropout(self.cross.look(x, positions, source)))
        return self.norm_3(x + self.dropout(self.feedforward(x)))


CROSS_BLOCKS = {"pre": PreNormCrossBlock, "post": PostNormCrossBlock}


class EncoderDecoderState(CachedState):
    """The state of the decoder: its KV caches, and the keys and values of the source for each layer."""

    def __init__(self, sources: list[KVView], caches: list[KVCache], context_length: int):
        super().__init__(len(sources[0].k), caches, sources[0].k.device, context_length, relative=False)
        self.sources = sources

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """See `State.reorder`. Rows are reordered together with their sources."""
        super().reorder(rows, since)
        self.sources = [
            view._replace(
                k=view.k.index_select(0, rows), v=view.v.index_select(0, rows), positions=_rows_of(view.positions, rows)
            )
            for view in self.sources
        ]

    def nbytes(self) -> int:
        """See `State.nbytes`. Includes keys and values of the source."""
        shown = sum(x.numel() * x.element_size() for view in self.sources for x in (view.k, view.v, view.positions))
        return shown + super().nbytes()


class EncoderDecoder(nn.Module):
    """A `HiddenModel` of the target: tokens (B, T) -> logits (B, T, V), given a source (B, S)."""

    start_options = frozenset({"source", "cache"})

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int):
        super().__init__()
        c = config
        self.config, self.vocab_size, self.context_length = c, vocab_size, c.context_length
        self.embed = nn.Embedding(vocab_size, c.d_model)
        self.embed_positions = SinusoidalPositions(c.context_length, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = nn.ModuleList(build_block(c) for _ in range(c.n_layers))
        self.encoder_norm = build_norm(c) if c.norm_place == "pre" else NoNorm(c.d_model)
        self.decoder = nn.ModuleList(build_cross_block(c) for _ in range(c.n_layers))
        self.decoder_norm = build_norm(c) if c.norm_place == "pre" else NoNorm(c.d_model)
        self.head = nn.Linear(c.d_model, vocab_size, bias=False)
        self._initialize()
        self.head.weight = self.embed.weight

    def start(
        self, batch_size: int, source: Tensor | None = None, cache: Callable[[], KVCache] = ContiguousCache
    ) -> EncoderDecoderState:
        """Encode the source (B, S); return a state without target tokens. `cache()` makes the cache of one layer.

        Raises ValueError for a source that is missing, empty, too long, or not of `batch_size` rows.
        """
        views = self.show(source)
        if len(views[0].k) != batch_size:
            raise ValueError(
                f"source of {len(views[0].k)} rows: expected batch_size = {batch_size}; give one for each row"
            )
        return EncoderDecoderState(views, [cache() for _ in self.decoder], self.context_length)

    def forward(
        self, tokens: Tensor, state: EncoderDecoderState | None = None, source: Tensor | None = None
    ) -> tuple[Tensor, EncoderDecoderState | None]:
        """See `LanguageModel.__call__`. Without a state, as in training, pass the source (B, S) here.

        Raises ValueError for a source as `start` does, and if a row would exceed the context.
        """
        x, state = self.hidden(tokens, state, source=source)
        return self.head(x), state

    def hidden(
        self,
        tokens: Tensor,
        state: EncoderDecoderState | None = None,
        vectors: Tensor | None = None,
        source: Tensor | None = None,
    ) -> tuple[Tensor, EncoderDecoderState | None]:
        """See `HiddenModel.hidden`. For the source and the errors, see `forward`."""
        if state is not None and source is not None:
            raise ValueError("source: expected none beside a state, which has its own; pass it to start")
        views = self.show(source) if state is None else state.sources
        caches = state.caches if state is not None else [NO_CACHE] * len(self.decoder)
        positions = positions_of(tokens, self.context_length, None if state is None else state.places, "the target of ")
        x = self._read(tokens, positions, vectors)
        for block, cache, view in zip(self.decoder, caches, views, strict=True):
            x = block(x, positions, cache, view)
        if state is not None:
            state.lengths = state.lengths + (tokens >= 0).sum(1)
        return self.decoder_norm(x), state

    def encode(self, source: Tensor) -> tuple[Tensor, Positions]:
        """Encode a source (B, S): the memory (B, S, D) and its positions."""
        positions = positions_of(source, self.context_length, what="the source of ")
        x = self._read(source, positions)
        for block in self.encoder:
            x = block(x, positions, NO_CACHE)
        return self.encoder_norm(x), positions

    def show(self, source: Tensor | None) -> list[KVView]:
        """Keys and values of a source (B, S) for each block of the decoder."""
        if source is None or not source.numel():
            given = "None" if source is None else "no tokens"
            raise ValueError(f"source = {given}: expected the source text; give its tokens (B, S)")
        memory, positions = self.encode(source)
        return [block.cross.show(memory, positions) for block in self.decoder]

    @torch.no_grad()
    def alignment(self, tokens: Tensor, source: Tensor) -> Tensor:
        """The cross-attention weights of target tokens (B, T) on source tokens (B, S): (L, B, H, T, S)."""
        asked: list[Tensor] = []
        hooks = [block.cross.to_q.register_forward_hook(lambda _, __, q: asked.append(q)) for block in self.decoder]
        try:
            self(tokens, source=source)
        finally:
            for hook in hooks:
                hook.remove()
        found = []
        for q, view in zip(asked, self.show(source), strict=True):
            q = rearrange(q, "B T (H K) -> B H T K", H=self.config.n_heads)
            each_slot = torch.eye(view.k.shape[2], dtype=q.dtype, device=q.device).expand(*view.k.shape[:3], -1)
            # with one-hot values, the output of attention is its weights
            found.append(attend_plainly(q, view._replace(v=each_slot), tokens, causal=False))
        return torch.stack(found)

    def _read(self, tokens: Tensor, positions: Positions, vectors: Tensor | None = None) -> Tensor:
        """The input (B, T, D) of the first block; `vectors`, if given, replace the embeddings of the tokens (B, T)."""
        embedded = self.embed(tokens.clamp(min=0)) if vectors is None else vectors
        return self.dropout(embedded * math.sqrt(self.config.d_model) + self.embed_positions(positions.ids))

    def _initialize(self) -> None:
        """Xavier weights, which preserve variance (Glorot and Bengio 2010); embeddings of variance 1 after scaling.

        With pre-norm, the last norm starts with a small gain: initial logits have a standard deviation of 0.2, so the
        first predictions are nearly uniform.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed.weight, std=self.config.d_model**-0.5)
        if self.config.norm_place == "pre":
            nn.init.constant_(self.decoder_norm.weight, 0.2)


def build_block(c: EncoderDecoderConfig) -> nn.Module:
    """One block of the encoder."""
    parts = build_attention(c, causal=False), build_feedforward(c)
    return BLOCKS[c.norm_place](*parts, partial(build_norm, c), c.dropout)


def build_cross_block(c: EncoderDecoderConfig) -> nn.Module:
    """One block of the decoder."""
    parts = build_attention(c, causal=True), build_attention(c, causal=False), build_feedforward(c)
    return CROSS_BLOCKS[c.norm_place](*parts, partial(build_norm, c), c.dropout)


def build_attention(c: EncoderDecoderConfig, causal: bool) -> Attention:
    """Self-attention, or attention to the source."""
    d_head = c.d_model // c.n_heads
    return Attention(c.d_model, c.n_heads, c.n_heads, d_head, bias=c.bias, causal=causal, dropout=c.dropout)


def build_feedforward(c: EncoderDecoderConfig) -> MLP:
    """The feed-forward of a block."""
    return MLP(c.d_model, c.d_ff or 4 * c.d_model, ACTIVATIONS[c.feedforward], c.bias)


def build_norm(c: EncoderDecoderConfig) -> LayerNorm:
    """A norm of a residual stream."""
    return LayerNorm(c.d_model, c.bias, c.norm_eps)


def _rows_of(positions: Tensor, rows: Tensor) -> Tensor:
    """Select rows of positions (B or 1, 1, S); positions that all rows share remain shared."""
    return positions if len(positions) == 1 else positions[rows]

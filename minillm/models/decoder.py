"""The decoder-only transformer: GPT-2, Llama, and combinations of their parts, with one forward pass.

    x = embed(token) + position;   x = block(x) for every block;   logits = head(norm(x))

GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied head. Llama (Touvron et al. 2023):
RMSNorm, rotary positions, SwiGLU, grouped queries, no biases. The constructor chooses the parts; `forward` is the same
for all. Read before: `minillm/lessons/gpt.py`, the same model on one page, without options; tests hold the two equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

from torch import Tensor, nn

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import NO_CACHE, KVCache, Positions
from minillm.config.fields import Above, AtLeast, Between, Choice, Count, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.block import BLOCKS
from minillm.layers.feedforward import ACTIVATIONS, MLP, SwiGLU
from minillm.layers.moe import ExpertMLPs, ExpertSwiGLUs, MoE, NoSharedExpert, Router
from minillm.layers.ngram_embedding import NgramEmbedding, NoNgramEmbedding
from minillm.layers.norm import NORMS, NoNorm, RMSNorm
from minillm.layers.positions import POSITIONS, NoPositions, PositionalEncoding, Sizes, positions_of
from minillm.layers.value_embedding import NoValueEmbedding, ValueEmbedding
from minillm.models.cached_state import CachedState
from minillm.models.language_model import device_of

OWN_LOGIT = 3.5  # e^3.5 = 33: among hundreds of tokens, the one just read starts a little more probable than others
EMBEDDINGS = ("embed.", "embed_positions.", "embed_ngrams.")  # prefixes of the parameters initialized with `init_embed`
INTO_STREAM = ("to_out.weight", "down.weight")  # suffixes of the parameters that project into the residual stream


class Gated(NamedTuple):
    """The classes of a gated feed-forward."""

    dense: type[nn.Module]
    experts: type[nn.Module]  # E experts at once


GATED = {"swiglu": Gated(SwiGLU, ExpertSwiGLUs)}

ROUTING = (  # keys that have an effect only with n_experts
    *("n_experts_per_token", "n_shared_experts", "capacity_factor"),
    *("balance_loss", "balance_rate", "router_z_loss"),
)


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    kind: Literal["decoder"] = "decoder"  # what the model is
    n_layers: Positive = 4  # blocks
    d_model: Positive = 128  # width of the residual stream
    n_heads: Positive = 4  # query heads of each attention
    n_kv_heads: Count = 0  # key and value heads, shared by groups of query heads; 0: as many as n_heads
    d_head: Count = 0  # width of a head; 0: d_model / n_heads
    d_ff: Count = 0  # hidden width of the feed-forward, or of each expert; 0: 4 x d_model, or 8/3 x d_model for swiglu
    context_length: Positive = 256  # maximum number of tokens of a text
    positions: Annotated[str, Choice(POSITIONS)] = "rotary"  # positional encoding
    rotary_base: Annotated[float, Above(1)] = 10000.0  # base of the rotary wavelengths: about the longest one / 2 pi
    norm: Annotated[str, Choice(NORMS)] = "rmsnorm"  # normalization layer
    norm_place: Annotated[str, Choice(BLOCKS)] = "pre"  # before each sublayer (and at the end), or after each addition
    norm_eps: Annotated[float, Above(0)] = 1e-5  # added to the mean square
    qk_norm: bool = False  # RMSNorm of every query and key
    feedforward: Annotated[str, Choice(ACTIVATIONS, GATED)] = "relu2"  # activation of the feed-forward, or swiglu
    n_experts: Count = 0  # experts (feed-forwards) that a router chooses from for each token; 0: one feed-forward
    n_experts_per_token: Positive = 2  # experts that the router chooses for each token
    n_shared_experts: Count = 0  # width of an expert that all tokens share, in widths of one expert; 0: none
    capacity_factor: Annotated[float, AtLeast(0)] = (
        0.0  # most tokens that an expert serves in training, as a multiple of its fair share; 0: no limit
    )
    balance_loss: Annotated[float, AtLeast(0)] = 0.01  # weight of the loss that balances the load of the experts
    balance_rate: Annotated[float, AtLeast(0)] = 0.0  # step of router biases that balance it without a loss; 0: none
    router_z_loss: Annotated[float, AtLeast(0)] = 0.001  # weight of the loss that keeps router logits small
    bias: bool = False  # biases in linear layers and LayerNorm
    window: Count = 0  # tokens that a query attends to, itself included; 0: all
    tied: bool = True  # share one weight between embedding and head
    value_embeddings: bool = False  # add a second embedding of each token to the values of every attention
    ngram_rows: Count = 0  # rows of a table of embeddings for the last two and the last three tokens; 0: none
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # probability, for embeddings, attention weights and sublayers
    init_std: Annotated[float, AtLeast(0)] = 0.02  # standard deviation of initial weights
    init_embed: Annotated[float, AtLeast(0)] = 0.02  # standard deviation of initial embeddings
    init_out: Literal["scaled", "zero"] = (
        "scaled"  # projections into the residual stream: std / sqrt(2 n_layers) (GPT-2), or zero
    )

    def __post_init__(self) -> None:
        validate(self)
        if not self.d_head and self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model = {self.d_model}: expected a multiple of n_heads = {self.n_heads}; "
                "change one of the two, or set d_head"
            )
        if self.n_experts and self.bias:
            raise ValueError(
                "model.bias = true: expected false with n_experts, since experts have no biases; "
                "leave one of the two out"
            )
        for name in ROUTING:
            if not self.n_experts and getattr(self, name) != getattr(DecoderConfig, name):
                raise ValueError(
                    f"model.{name} = {getattr(self, name)}: expected only beside n_experts; "
                    f"set n_experts, or leave {name} out"
                )

    @property
    def n_groups(self) -> int:
        """G, number of key and value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def width_of_head(self) -> int:
        """K, width of each query, key and value."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def hidden_width(self) -> int:
        """F, of the feed-forward or each expert. Default: 4 D, or 8/3 D if gated, since a gate adds a third matrix."""
        return self.d_ff or (round(self.d_model * 8 / 3) if self.feedforward in GATED else 4 * self.d_model)


class Decoder(nn.Module):
    """A `HiddenModel`: tokens (B, T) -> logits (B, T, V)."""

    start_options = frozenset({"cache"})

    def __init__(self, config: DecoderConfig, vocab_size: int):
        super().__init__()
        c = config
        self.config, self.vocab_size, self.context_length = c, vocab_size, c.context_length
        # first, so that a table too large for memory fails at once
        self.embed = nn.Embedding(vocab_size, c.d_model)
        order = POSITIONS[c.positions](Sizes(c.context_length, c.d_model, c.n_heads, c.width_of_head, c.rotary_base))
        self.embed_positions = order.embed
        self.embed_ngrams = NgramEmbedding(c.ngram_rows, c.d_model, vocab_size) if c.ngram_rows else NoNgramEmbedding()
        self.embed_values = build_value_embedding(c, vocab_size)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(build_block(c, order) for _ in range(c.n_layers))
        self.norm = build_norm(c) if c.norm_place == "pre" else NoNorm(c.d_model)
        self.head = nn.Linear(c.d_model, vocab_size, bias=False)
        self._initialize()
        if c.tied:
            self.head.weight = self.embed.weight

    def start(self, batch_size: int, cache: Callable[[], KVCache] = ContiguousCache) -> CachedState:
        """An empty state; `cache()` makes the cache of one layer. Raises ValueError for a cache that does not fit."""
        relative = isinstance(self.embed_positions, NoPositions)  # positions are compared, not added to embeddings
        caches = [cache() for _ in range(len(self.blocks) + self.embed_ngrams.n_caches)]
        if self.embed_ngrams.n_caches and not caches[-1].exact:
            raise ValueError(
                "cache: expected one that keeps all tokens as they are, contiguous or paged, since this model looks up "
                "the tokens before each (model.ngram_rows); take one of the two, or a model without n-gram embeddings"
            )
        return CachedState(batch_size, caches, device_of(self), self.context_length, relative)

    def forward(self, tokens: Tensor, state: CachedState | None = None) -> tuple[Tensor, CachedState | None]:
        """See `LanguageModel.__call__`. Raises ValueError if a row would exceed the context."""
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def hidden(
        self, tokens: Tensor, state: CachedState | None = None, vectors: Tensor | None = None
    ) -> tuple[Tensor, CachedState | None]:
        """See `HiddenModel.hidden`. N-gram and value embeddings always use the tokens, also with `vectors`."""
        positions = positions_of(tokens, self.context_length, None if state is None else state.places)  # (B or 1, T)
        caches = state.caches if state is not None else [NO_CACHE] * (len(self.blocks) + self.embed_ngrams.n_caches)
        x = self.read(tokens if positions.dense else tokens.clamp(min=0), positions, caches, vectors)
        if state is not None:
            state.lengths = state.lengths + (tokens.shape[1] if positions.dense else (tokens >= 0).sum(1))
        return x, state

    def read(self, ids: Tensor, positions: Positions, caches: list[KVCache], vectors: Tensor | None = None) -> Tensor:
        """`hidden` for known positions: ids (B, T) >= 0 at `positions`."""
        n_layers = len(self.blocks)
        ngrams = self.embed_ngrams(ids, positions, *caches[n_layers:])
        embedded = self.embed(ids) if vectors is None else vectors
        x = self.dropout(embedded + self.embed_positions(positions.ids) + ngrams)  # (B, T, D)
        for block, cache, values in zip(self.blocks, caches[:n_layers], self.embed_values(ids), strict=True):
            x = block(x, positions, cache, values)
        return self.norm(x)

    def _initialize(self) -> None:
        """Normal weights, zero biases; projections into the residual stream start smaller, so depth adds no variance.

        A tied head scores a token by its input embedding. With large embeddings, the model would predict each token to
        repeat itself; the gain of the last norm then starts smaller, so that a token's own logit is at most
        `OWN_LOGIT`.
        """
        c = self.config
        for name, matrix in self.named_parameters():
            if matrix.ndim < 2:
                continue
            into_stream = name.endswith(INTO_STREAM)
            std = c.init_embed if name.startswith(EMBEDDINGS) else c.init_std
            nn.init.normal_(matrix, std=std * (2 * c.n_layers) ** -0.5 if into_stream else std)
            if into_stream and c.init_out == "zero":
                nn.init.zeros_(matrix)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        own_logit = c.init_embed * c.d_model  # logit of a token if the last hidden vector is its normalized embedding
        if c.tied and own_logit > OWN_LOGIT and c.norm_place == "pre":
            nn.init.constant_(self.norm.weight, OWN_LOGIT / own_logit)


def build_block(c: DecoderConfig, order: PositionalEncoding) -> nn.Module:
    """One block: attention and feed-forward, each with its norm."""
    parts = build_attention(c, order), build_feedforward(c), build_norm(c), build_norm(c)
    return BLOCKS[c.norm_place](*parts, c.dropout)


def build_norm(c: DecoderConfig) -> nn.Module:
    """A norm of the residual stream."""
    return NORMS[c.norm](c.d_model, c.norm_eps, c.bias)


def build_attention(c: DecoderConfig, order: PositionalEncoding) -> Attention:
    """Causal self-attention, with or without a window."""
    qk_norm = partial(RMSNorm, eps=c.norm_eps) if c.qk_norm else NoNorm
    how = {"bias": c.bias, "window": c.window, "qk_norm": qk_norm, "dropout": c.dropout}
    how |= {"rotate": order.rotate, "score_bias": order.score_bias}
    return Attention(c.d_model, c.n_heads, c.n_groups, c.width_of_head, **how)


def build_feedforward(c: DecoderConfig) -> nn.Module:
    """One feed-forward for all tokens, or a mixture of experts."""
    return build_mixture(c) if c.n_experts else build_dense(c, c.hidden_width)


def build_dense(c: DecoderConfig, d_ff: int) -> nn.Module:
    """One feed-forward with d_ff hidden units."""
    if c.feedforward in GATED:
        return GATED[c.feedforward].dense(c.d_model, d_ff, c.bias)
    return MLP(c.d_model, d_ff, ACTIVATIONS[c.feedforward], c.bias)


def build_mixture(c: DecoderConfig) -> MoE:
    """A router, its experts, and an expert that all tokens share."""
    remedies = {"balance_loss": c.balance_loss, "z_loss": c.router_z_loss, "balance_rate": c.balance_rate}
    router = Router(c.d_model, c.n_experts, c.n_experts_per_token, capacity_factor=c.capacity_factor, **remedies)
    if c.feedforward in GATED:
        experts = GATED[c.feedforward].experts(c.n_experts, c.d_model, c.hidden_width)
    else:
        experts = ExpertMLPs(c.n_experts, c.d_model, c.hidden_width, ACTIVATIONS[c.feedforward])
    n_shared = c.n_shared_experts
    return MoE(router, experts, build_dense(c, n_shared * c.hidden_width) if n_shared else NoSharedExpert())


def build_value_embedding(c: DecoderConfig, vocab_size: int) -> nn.Module:
    """A second embedding for the values of every layer, or none."""
    if c.value_embeddings:
        return ValueEmbedding(vocab_size, c.n_groups * c.width_of_head, c.n_layers)
    return NoValueEmbedding(c.n_layers)

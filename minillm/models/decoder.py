"""The decoder-only transformer: GPT-2-shaped, Llama-shaped, or anything between, from one forward.

    x = embed(token) + position;   x = block(x) for every block;   logits = head(norm(x))

GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied head. Llama (Touvron et al. 2023): RMSNorm,
rotary positions, SwiGLU, grouped queries, no biases. What differs is chosen in the constructor; `forward` is the same for all.
Read `minillm/lessons/gpt.py` first: the same model on one page, without options, to which this one is held equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from torch import Tensor, nn

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import NO_CACHE, KVCache, Positions
from minillm.config.fields import Above, AtLeast, Between, Count, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.block import PostNormBlock, PreNormBlock
from minillm.layers.dropout import dropout_layer
from minillm.layers.feedforward import ACTIVATIONS, MLP, SwiGLU
from minillm.layers.moe import ExpertMLPs, ExpertSwiGLUs, MoE, NoSharedExpert, Router
from minillm.layers.ngram_embedding import NgramEmbedding, NoNgramEmbedding
from minillm.layers.norm import LayerNorm, NoNorm, RMSNorm
from minillm.layers.positions import (
    Alibi,
    LearnedPositions,
    NoPositions,
    Rotary,
    SinusoidalPositions,
    no_bias,
    no_rotation,
    positions_of,
)
from minillm.layers.value_embedding import NoValueEmbedding, ValueEmbedding
from minillm.models.cached_state import CachedState
from minillm.models.language_model import device_of

OWN_LOGIT = 3.5  # e^3.5 = 33: of hundreds of tokens, the one just read starts a little more probable than the others


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
    context_length: Positive = 256  # most tokens that the model reads at once
    positions: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"  # how order is told
    rotary_base: Annotated[float, Above(1)] = 10000.0  # longest wavelength of rotary positions, over 2 pi
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"  # what keeps vectors at a steady size
    norm_place: Literal["pre", "post"] = "pre"  # before each sublayer (and once at the end), or after each addition
    norm_eps: Annotated[float, Above(0)] = 1e-5  # added to the mean square
    qk_norm: bool = False  # RMSNorm of every query and key
    feedforward: Literal["relu2", "gelu", "relu", "swiglu"] = "relu2"  # the feed-forward's kind
    n_experts: Count = 0  # feed-forwards among which a router chooses for every token; 0: one for all
    n_experts_per_token: Positive = 2  # how many it chooses
    n_shared_experts: Count = 0  # so many times the width of an expert is asked by all tokens
    capacity_factor: Annotated[float, AtLeast(0)] = (
        0.0  # choices that an expert serves in training, over its fair share; 0: no limit
    )
    balance_loss: Annotated[float, AtLeast(0)] = 0.01  # weight of the loss that evens out the load of experts
    balance_rate: Annotated[float, AtLeast(0)] = 0.0  # step of the biases that even it out without a loss; 0: no biases
    router_z_loss: Annotated[float, AtLeast(0)] = 0.001  # weight of the loss that keeps the logits of routers small
    bias: bool = False  # biases in linear layers and LayerNorm
    window: Count = 0  # tokens that a query sees, itself included; 0: all
    tied: bool = True  # the head's weight is the embedding
    value_embeddings: bool = False  # a second table, whose vectors are added to the values of every attention
    ngram_rows: Count = (
        0  # rows of a table in which the pair and the triple of tokens that end at each are looked up; 0: none
    )
    dropout: Annotated[float, Between(0, 0.99)] = 0.0  # of embeddings, attention weights and sublayer outputs
    init_std: Annotated[float, AtLeast(0)] = 0.02  # of the normal distribution that weights start from
    init_embed: Annotated[float, AtLeast(0)] = 0.02  # the same for embeddings
    init_out: Literal["scaled", "zero"] = (
        "scaled"  # projections into the stream: std / sqrt(2 n_layers) (GPT-2), or exactly 0
    )

    def __post_init__(self) -> None:
        validate(self)
        if not self.d_head and self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model = {self.d_model}: expected a multiple of n_heads = {self.n_heads}; change one or set d_head"
            )
        if self.n_experts and self.bias:
            raise ValueError(
                "model.bias = true: expected false where there are n_experts, which have no biases; leave one of the two out"
            )
        for name in (
            "n_experts_per_token",
            "n_shared_experts",
            "capacity_factor",
            "balance_loss",
            "balance_rate",
            "router_z_loss",
        ):
            if not self.n_experts and getattr(self, name) != getattr(DecoderConfig, name):
                raise ValueError(
                    f"model.{name} = {getattr(self, name)}: expected only beside n_experts; set n_experts or leave it out"
                )


class Decoder(nn.Module):
    """A `LanguageModel`: tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, config: DecoderConfig, vocab_size: int):
        super().__init__()
        c = config
        self.config, self.vocab_size, self.context_length = c, vocab_size, c.context_length
        self.embed = nn.Embedding(
            vocab_size, c.d_model
        )  # first: a width for which there is no memory fails here, at once
        d_head, n_kv_heads = c.d_head or c.d_model // c.n_heads, c.n_kv_heads or c.n_heads
        rotate = Rotary(d_head, c.context_length, c.rotary_base) if c.positions == "rotary" else no_rotation
        score_bias = Alibi(c.n_heads) if c.positions == "alibi" else no_bias
        norm: Callable[[int], Callable[[Tensor], Tensor]] = {
            "rmsnorm": partial(RMSNorm, eps=c.norm_eps),
            "layernorm": partial(LayerNorm, bias=c.bias, eps=c.norm_eps),
        }[c.norm]
        block = {"pre": PreNormBlock, "post": PostNormBlock}[c.norm_place]

        def attention() -> Attention:
            qk_norm = partial(RMSNorm, eps=c.norm_eps) if c.qk_norm else NoNorm
            options = {"bias": c.bias, "window": c.window, "rotate": rotate, "qk_norm": qk_norm, "dropout": c.dropout}
            return Attention(c.d_model, c.n_heads, n_kv_heads, d_head, score_bias=score_bias, **options)

        d_ff = c.d_ff or (round(c.d_model * 8 / 3) if c.feedforward == "swiglu" else 4 * c.d_model)

        def dense(d_ff: int) -> nn.Module:
            if c.feedforward == "swiglu":
                return SwiGLU(c.d_model, d_ff, c.bias)
            return MLP(c.d_model, d_ff, ACTIVATIONS[c.feedforward], c.bias)

        def mixture() -> MoE:
            remedies = {"balance_loss": c.balance_loss, "z_loss": c.router_z_loss, "balance_rate": c.balance_rate}
            router = Router(
                c.d_model, c.n_experts, c.n_experts_per_token, capacity_factor=c.capacity_factor, **remedies
            )
            if c.feedforward == "swiglu":
                experts: nn.Module = ExpertSwiGLUs(c.n_experts, c.d_model, d_ff)
            else:
                experts = ExpertMLPs(c.n_experts, c.d_model, d_ff, ACTIVATIONS[c.feedforward])
            return MoE(router, experts, dense(c.n_shared_experts * d_ff) if c.n_shared_experts else NoSharedExpert())

        feedforward = mixture if c.n_experts else partial(dense, d_ff)

        self.embed_positions: nn.Module = {
            "learned": partial(LearnedPositions, c.context_length, c.d_model),
            "sinusoidal": partial(SinusoidalPositions, c.context_length, c.d_model),
        }.get(c.positions, NoPositions)()
        self.embed_ngrams = NgramEmbedding(c.ngram_rows, c.d_model, vocab_size) if c.ngram_rows else NoNgramEmbedding()
        self.embed_values: nn.Module = (
            ValueEmbedding(vocab_size, n_kv_heads * d_head, c.n_layers)
            if c.value_embeddings
            else NoValueEmbedding(c.n_layers)
        )
        self.dropout = dropout_layer(c.dropout)
        self.blocks = nn.ModuleList(
            block(attention(), feedforward(), norm(c.d_model), norm(c.d_model), c.dropout) for _ in range(c.n_layers)
        )
        self.norm = norm(c.d_model) if c.norm_place == "pre" else NoNorm(c.d_model)
        self.head = nn.Linear(c.d_model, vocab_size, bias=False)
        self._initialize()
        if c.tied:
            self.head.weight = self.embed.weight

    def start(self, batch_size: int, cache: Callable[[], KVCache] = ContiguousCache) -> CachedState:
        """An empty memory; `cache()` makes one layer's. Raises ValueError for one that the model cannot read with."""
        relative = self.config.positions not in ("learned", "sinusoidal")
        caches = [cache() for _ in range(len(self.blocks) + self.embed_ngrams.n_caches)]
        if self.embed_ngrams.n_caches and not caches[-1].exact:
            raise ValueError(
                "cache: expected one that keeps all tokens as they are, contiguous or paged, since this model looks up those before "
                "each (model.ngram_rows); take one of the two, or a model without n-gram embeddings"
            )
        return CachedState(batch_size, caches, device_of(self), self.context_length, relative)

    def forward(self, tokens: Tensor, state: CachedState | None = None) -> tuple[Tensor, CachedState | None]:
        """See `LanguageModel.__call__`. Raises ValueError where a row would outgrow the context."""
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def hidden(self, tokens: Tensor, state: CachedState | None = None) -> tuple[Tensor, CachedState | None]:
        """The vectors from which the head reads the next token: (B, T) -> (B, T, D)."""
        positions = positions_of(tokens, self.context_length, None if state is None else state.places)  # (B or 1, T)
        caches = state.caches if state is not None else [NO_CACHE] * (len(self.blocks) + self.embed_ngrams.n_caches)
        x = self.read(tokens if positions.dense else tokens.clamp(min=0), positions, caches)
        if state is not None:
            state.lengths = state.lengths + (tokens.shape[1] if positions.dense else (tokens >= 0).sum(1))
        return x, state

    def read(self, ids: Tensor, positions: Positions, caches: list[KVCache]) -> Tensor:
        """The same where it is known already what stands where: ids (B, T) >= 0 at `positions`."""
        n_layers = len(self.blocks)
        ngrams = self.embed_ngrams(ids, positions, *caches[n_layers:])
        x = self.dropout(self.embed(ids) + self.embed_positions(positions.ids) + ngrams)  # (B, T, D)
        for block, cache, values in zip(self.blocks, caches[:n_layers], self.embed_values(ids), strict=True):
            x = block(x, positions, cache, values)
        return self.norm(x)

    def _initialize(self) -> None:
        """Normal weights, zero biases; what projects into the stream starts smaller, so that depth does not add variance.

        A tied head scores a token by the embedding that it was read with. Large embeddings would make each token sure of
        repeating itself, so the gain of the last norm then starts small: a token's own logit starts at `OWN_LOGIT` at most.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            into_stream = name.endswith(("to_out.weight", "down.weight"))
            scale = (2 * self.config.n_layers) ** -0.5 if into_stream else 1.0
            std = (
                self.config.init_embed
                if name.startswith(("embed.", "embed_positions.", "embed_ngrams."))
                else self.config.init_std
            )
            nn.init.normal_(parameter, std=std * scale)
            if into_stream and self.config.init_out == "zero":
                nn.init.zeros_(parameter)
        own_logit = self.config.init_embed * self.config.d_model  # of a normalized vector and the embedding that it is
        if self.config.tied and own_logit > OWN_LOGIT and self.config.norm_place == "pre":
            nn.init.constant_(self.norm.weight, OWN_LOGIT / own_logit)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

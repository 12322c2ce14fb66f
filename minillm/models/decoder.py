"""The decoder-only transformer: GPT-2, Llama, and combinations of their parts, with one forward pass.

    x = embed(token) + position;   x = block(x) for every block;   logits = head(norm(x))

GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied head. Llama (Touvron et al. 2023):
RMSNorm, rotary positions, SwiGLU, grouped queries, no biases. The constructor chooses the parts, which `decoder_parts`
builds; `forward` is the same for all. Read before: `minillm/lessons/gpt.py`, the same model on one page, without
options; tests hold the two equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kv_cache import NO_CACHE, KVCache, Positions
from minillm.config.fields import Above, AtLeast, Between, Choice, Count, Positive, validate
from minillm.layers.block import BLOCKS
from minillm.layers.feedforward import ACTIVATIONS
from minillm.layers.ngram_embedding import NgramEmbedding, NoNgramEmbedding
from minillm.layers.norm import NORMS, NoNorm
from minillm.layers.positions import POSITIONS, NoPositions, positions_of
from minillm.layers.rotary_scaling import SCALINGS
from minillm.models.cached_state import CachedState
from minillm.models.decoder_parts import GATED, Scale, build_block, build_encodings, build_norm, build_value_embedding
from minillm.models.language_model import device_of

OWN_LOGIT = 3.5  # e^3.5 = 33: among hundreds of tokens, the one just read starts a little more probable than others
EMBEDDINGS = ("embed.", "embed_positions.", "embed_ngrams.")  # prefixes of the parameters initialized with `init_embed`
INTO_STREAM = ("to_out.weight", "down.weight")  # suffixes of the parameters that project into the residual stream


SCALING = (  # keys that have an effect only with rotary_scaling
    *("rotary_factor", "rotary_trained_length", "rotary_few_turns", "rotary_many_turns", "rotary_gain"),
    "rotary_whole_pairs",
)
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
    d_ff: Count = 0  # hidden width of the feed-forward, or of each expert; 0: 4 x d_model, or 8/3 x d_model if gated
    context_length: Positive = 256  # maximum number of tokens of a text
    positions: Annotated[str, Choice(POSITIONS)] = "rotary"  # positional encoding
    rotary_base: Annotated[float, Above(1)] = 10000.0  # base of the rotary wavelengths: about the longest one / 2 pi
    rotary_scaling: Annotated[str, Choice(SCALINGS)] = (
        "none"  # change of the frequencies, for texts longer than trained
    )
    rotary_factor: Annotated[float, AtLeast(1)] = 1.0  # by how much longer the texts may be
    rotary_trained_length: Count = 0  # tokens in a text of the original training, for yarn and llama3
    rotary_few_turns: Annotated[float, Above(0)] = 1.0  # pairs with fewer turns in a trained text are slowed down
    rotary_many_turns: Annotated[float, Above(0)] = 32.0  # pairs with more turns keep their frequency
    rotary_gain: Annotated[float, AtLeast(0)] = 0.0  # factor of queries and keys in yarn; 0: 0.1 ln(factor) + 1
    rotary_whole_pairs: bool = True  # whether the ramp of yarn begins and ends at whole pairs
    norm: Annotated[str, Choice(NORMS)] = "rmsnorm"  # normalization layer
    norm_place: Annotated[str, Choice(BLOCKS)] = (
        "pre"  # before each sublayer (and at the end), after each addition, or both
    )
    norm_eps: Annotated[float, Above(0)] = 1e-5  # added to the mean square
    qk_norm: bool = False  # RMSNorm of every query and key
    feedforward: Annotated[str, Choice(ACTIVATIONS, GATED)] = "relu2"  # activation of the feed-forward, or a gated one
    n_experts: Count = 0  # experts (feed-forwards) that a router chooses from for each token; 0: one feed-forward
    n_experts_per_token: Positive = 2  # experts that the router chooses for each token
    n_shared_experts: Count = 0  # width of an expert that all tokens share, in widths of one expert; 0: none
    capacity_factor: Annotated[float, AtLeast(0)] = (
        0.0  # most tokens that an expert serves in training, as a multiple of its fair share; 0: no limit
    )
    balance_loss: Annotated[float, AtLeast(0)] = 0.01  # weight of the loss that balances the load of the experts
    balance_rate: Annotated[float, AtLeast(0)] = 0.0  # step of router biases that balance it without a loss; 0: none
    router_z_loss: Annotated[float, AtLeast(0)] = 0.001  # weight of the loss that keeps router logits small
    bias: bool = False  # biases in linear layers, routers and LayerNorm
    bias_qkv: bool = False  # biases of queries, keys and values
    sinks: bool = False  # a learned number in the softmax of each head, which takes attention without a value
    window: Count = 0  # tokens that a query attends to, itself included; 0: all
    global_every: Count = 0  # with a window: every n-th block attends to all tokens; 0: none
    local_base: Annotated[float, AtLeast(0)] = 0.0  # rotary base of blocks with a window, unscaled; 0: as all blocks
    tied: bool = True  # share one weight between embedding and head
    scale_embedding: bool = False  # multiply embeddings by the square root of d_model
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
        self._refuse_without("n_experts", self.n_experts, ROUTING)
        self._refuse_without("rotary_scaling", self.rotary_scaling != "none", SCALING)
        self._refuse_without("window", self.window, ("global_every", "local_base"))
        self._refuse_without("positions = rotary", self.positions == "rotary", ("rotary_scaling", "local_base"))
        if self.rotary_scaling in ("yarn", "llama3") and not self.rotary_trained_length:
            raise ValueError(
                f"model.rotary_trained_length = 0: expected the tokens of a text of the original training beside "
                f"rotary_scaling = {self.rotary_scaling}; set it"
            )

    def _refuse_without(self, needed: str, there: object, names: tuple[str, ...]) -> None:
        """Raise ValueError for a key that is set although the one that it needs is not."""
        for name in names:
            if not there and getattr(self, name) != getattr(DecoderConfig, name):
                raise ValueError(
                    f"model.{name} = {getattr(self, name)}: expected only beside {needed}; set it, or leave {name} out"
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
        self.scale = Scale(c.d_model**0.5) if c.scale_embedding else nn.Identity()
        encodings = build_encodings(c)
        self.embed_positions = encodings.unlimited.embed
        self.embed_ngrams = NgramEmbedding(c.ngram_rows, c.d_model, vocab_size) if c.ngram_rows else NoNgramEmbedding()
        self.embed_values = build_value_embedding(c, vocab_size)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(build_block(c, encodings, number) for number in range(1, c.n_layers + 1))
        self.norm = NoNorm(c.d_model) if c.norm_place == "post" else build_norm(c)
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
        x = self.dropout(self.scale(embedded) + self.embed_positions(positions.ids) + ngrams)  # (B, T, D)
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
        if c.tied and own_logit > OWN_LOGIT and c.norm_place == "pre" and c.norm != "offset-rmsnorm":
            nn.init.constant_(self.norm.weight, OWN_LOGIT / own_logit)

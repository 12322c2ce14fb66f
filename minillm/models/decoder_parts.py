"""The parts of a decoder, built from its config: blocks, attention, feed-forwards, norms and positional encodings.

Each function chooses one part; the parts themselves are in `minillm/layers/`. Read before: `decoder`.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from minillm.layers.attention import Attention
from minillm.layers.block import BLOCKS
from minillm.layers.feedforward import ACTIVATIONS, MLP, ClampedSwiGLU, GeGLU, SwiGLU
from minillm.layers.moe import (
    BiasedRouter,
    ExpertClampedSwiGLUs,
    ExpertGeGLUs,
    ExpertMLPs,
    ExpertSwiGLUs,
    MoE,
    NoSharedExpert,
    Router,
)
from minillm.layers.norm import NORMS, NoNorm
from minillm.layers.positions import POSITIONS, UNSCALED, PositionalEncoding, Sizes
from minillm.layers.rotary_scaling import Scaling
from minillm.layers.value_embedding import NoValueEmbedding, ValueEmbedding

if TYPE_CHECKING:
    from minillm.models.decoder import DecoderConfig


class Gated(NamedTuple):
    """The classes of a gated feed-forward."""

    dense: type[nn.Module]
    experts: type[nn.Module]  # E experts at once


GATED = {
    "swiglu": Gated(SwiGLU, ExpertSwiGLUs),
    "geglu": Gated(GeGLU, ExpertGeGLUs),
    "clamped-swiglu": Gated(ClampedSwiGLU, ExpertClampedSwiGLUs),
}


class Encodings(NamedTuple):
    """The positional encodings of the blocks that attend to all tokens, and of those with a window."""

    unlimited: PositionalEncoding
    windowed: PositionalEncoding


class Scale(nn.Module):
    """Multiply by a constant: (..., D) -> (..., D)."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def build_encodings(c: "DecoderConfig") -> Encodings:
    """The positional encodings of all blocks."""
    scaling = Scaling(
        c.rotary_scaling,
        c.rotary_factor,
        c.rotary_trained_length,
        c.rotary_few_turns,
        c.rotary_many_turns,
        c.rotary_gain,
        c.rotary_whole_pairs,
    )
    sizes = Sizes(c.context_length, c.d_model, c.n_heads, c.width_of_head, c.rotary_base, scaling)
    unlimited = POSITIONS[c.positions](sizes)
    if not c.local_base:
        return Encodings(unlimited, unlimited)
    return Encodings(unlimited, POSITIONS[c.positions](sizes._replace(base=c.local_base, scaling=UNSCALED)))


def build_block(c: "DecoderConfig", encodings: Encodings, number: int) -> nn.Module:
    """Block `number`, counted from 1: attention and feed-forward, each with its norms."""
    attends_to_all = not c.window or (c.global_every > 0 and number % c.global_every == 0)
    encoding, window = (encodings.unlimited, 0) if attends_to_all else (encodings.windowed, c.window)
    attention = build_attention(c, encoding, window)
    return BLOCKS[c.norm_place](attention, build_feedforward(c), partial(build_norm, c), c.dropout)


def build_norm(c: "DecoderConfig") -> nn.Module:
    """A norm of the residual stream."""
    return NORMS[c.norm](c.d_model, c.norm_eps, c.bias)


def build_attention(c: "DecoderConfig", order: PositionalEncoding, window: int) -> Attention:
    """Causal self-attention to the last `window` tokens; 0: to all."""
    qk_norm = partial(build_qk_norm, c) if c.qk_norm else NoNorm
    how = {"bias": c.bias or c.bias_qkv, "out_bias": c.bias, "window": window, "qk_norm": qk_norm, "sinks": c.sinks}
    how |= {"dropout": c.dropout}
    how |= {"rotate": order.rotate, "score_bias": order.score_bias}
    return Attention(c.d_model, c.n_heads, c.n_groups, c.width_of_head, **how)


def build_qk_norm(c: "DecoderConfig", d_head: int) -> nn.Module:
    """A norm of every query, or every key: an RMSNorm, with an offset if the norms of the residual stream have one."""
    return NORMS["offset-rmsnorm" if c.norm == "offset-rmsnorm" else "rmsnorm"](d_head, c.norm_eps, False)


def build_feedforward(c: "DecoderConfig") -> nn.Module:
    """One feed-forward for all tokens, or a mixture of experts."""
    return build_mixture(c) if c.n_experts else build_dense(c, c.hidden_width)


def build_dense(c: "DecoderConfig", d_ff: int) -> nn.Module:
    """One feed-forward with d_ff hidden units."""
    if c.feedforward in GATED:
        return GATED[c.feedforward].dense(c.d_model, d_ff, c.bias)
    return MLP(c.d_model, d_ff, ACTIVATIONS[c.feedforward], c.bias)


def build_mixture(c: "DecoderConfig") -> MoE:
    """A router, its experts, and an expert that all tokens share."""
    remedies = {"balance_loss": c.balance_loss, "z_loss": c.router_z_loss, "balance_rate": c.balance_rate}
    build = BiasedRouter if c.bias else Router
    router = build(c.d_model, c.n_experts, c.n_experts_per_token, capacity_factor=c.capacity_factor, **remedies)
    if c.feedforward in GATED:
        experts = GATED[c.feedforward].experts(c.n_experts, c.d_model, c.hidden_width, c.bias)
    else:
        experts = ExpertMLPs(c.n_experts, c.d_model, c.hidden_width, ACTIVATIONS[c.feedforward], c.bias)
    n_shared = c.n_shared_experts
    return MoE(router, experts, build_dense(c, n_shared * c.hidden_width) if n_shared else NoSharedExpert())


def build_value_embedding(c: "DecoderConfig", vocab_size: int) -> nn.Module:
    """A second embedding for the values of every layer, or none."""
    if c.value_embeddings:
        return ValueEmbedding(vocab_size, c.n_groups * c.width_of_head, c.n_layers)
    return NoValueEmbedding(c.n_layers)

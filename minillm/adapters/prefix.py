"""Prefix tuning: trained keys and values of virtual tokens, before the text, in every layer (Li and Liang 2021).

    softmax(q [k_prefix; k]^T / sqrt(K)) [v_prefix; v]        k_prefix, v_prefix: (P, G K) for every attention

A prefix is a KV cache that starts filled, with keys and values that are trained for the task. The text begins at
position P, so virtual tokens take P places of the context. The paper computes keys and values by a small network
(reparameterization), which was more stable than training them directly: `d_hidden`. An encoder and a decoder each have
a prefix; cross-attention has none. Read before: `cache/filled.py`; next: `soft_prompt`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.inject import Adapted, inject, matching
from minillm.cache.filled import FilledCache, later
from minillm.cache.kv_cache import NO_CACHE, KVCache, Positions
from minillm.config.fields import Count, Positive, validate
from minillm.layers.attention import Attention
from minillm.layers.positions import NoPositions
from minillm.models.decoder import Decoder
from minillm.models.encoder import Encoder
from minillm.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class PrefixConfig(Adapter):
    """A prefix."""

    kind: Literal["prefix"] = "prefix"  # kind of adapter
    length: Positive = 16  # virtual tokens; they take places of the context
    d_hidden: Count = 0  # hidden units of the network that computes keys and values; 0: they are trained directly

    def __post_init__(self) -> None:
        validate(self)

    @property
    def n_virtual(self) -> int:
        return self.length

    def add(self, model: nn.Module) -> nn.Module:
        """See `Adapter.add`."""
        bodies = [module for module in model.modules() if isinstance(module, Decoder | Encoder | EncoderDecoder)]
        if not bodies:
            raise ValueError(f"adapter.kind = prefix: expected a transformer, not {type(model).__name__}; take lora")
        body = bodies[0]
        refuse_long(self.length, body.context_length)
        attentions = list(matching(model, ["attention"], (Attention,)).values())
        if self.d_hidden:
            trunk = Trunk(self.length, self.d_hidden, attentions[0].to_k.weight)
            prefixes = [ComputedPrefix(attention, trunk) for attention in attentions]
        else:
            prefixes = [Prefix(attention, self.length) for attention in attentions]
        swaps: dict[nn.Module, nn.Module] = dict(
            zip(attentions, map(PrefixedAttention, attentions, prefixes), strict=True)
        )
        if not isinstance(body.embed_positions, NoPositions):
            swaps[body.embed_positions] = LaterPositions(body.embed_positions, self.length)
        inject(model, swaps)
        body.context_length -= self.length
        return model


class Prefix(nn.Module):
    """Keys, rotated to their positions, and values of P virtual tokens, trained directly: () -> (1, G, P, K) each."""

    def __init__(self, attention: Attention, length: int):
        """Starts with the keys and values of random vectors, as large as normalized inputs."""
        super().__init__()
        like = attention.to_k.weight
        memory = torch.randn(1, length, attention.to_k.in_features).to(like)
        with torch.no_grad():
            view = attention.show(memory, Positions(torch.arange(length, device=like.device)[None], True))
        self.k, self.v = nn.Parameter(view.k.contiguous()), nn.Parameter(view.v.contiguous())

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.k, self.v


class Trunk(nn.Module):
    """The first layer of the network that computes a prefix, shared by all attentions: () -> (P, d_hidden)."""

    def __init__(self, length: int, d_hidden: int, like: Tensor):
        """like: a matrix (out, D) of the model."""
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(length, like.shape[1]).to(like))
        self.up = nn.Linear(like.shape[1], d_hidden).to(like)

    def forward(self) -> Tensor:
        return torch.tanh(self.up(self.vectors))


class ComputedPrefix(nn.Module):
    """Keys and values of P virtual tokens, computed by a small network: () -> (1, G, P, K) each."""

    def __init__(self, attention: Attention, trunk: Trunk):
        super().__init__()
        self.n_groups, width = attention.n_kv_heads, attention.n_kv_heads * attention.d_head
        self.trunk = trunk
        self.to_k, self.to_v = (nn.Linear(trunk.up.out_features, width).to(trunk.vectors) for _ in "kv")

    def forward(self) -> tuple[Tensor, Tensor]:
        x = self.trunk()
        k, v = (to(x).unflatten(-1, (self.n_groups, -1)).transpose(0, 1)[None] for to in (self.to_k, self.to_v))
        return k, v


class PrefixedAttention(Adapted):
    """A frozen attention behind a prefix; called like `Attention`, with the positions of the text."""

    def __init__(self, base: Attention, prefix: Prefix | ComputedPrefix):
        super().__init__(base)
        self.prefix = prefix

    def forward(
        self,
        x: Tensor,
        positions: Positions | None = None,
        cache: KVCache = NO_CACHE,
        values: Tensor | None = None,
    ) -> Tensor:
        if positions is None:
            positions = Positions(torch.arange(x.shape[1], device=x.device)[None], dense=True)
        k, v = self.prefix()
        moved = Positions(later(positions.ids, k.shape[2]), positions.dense)
        return self.base(x, moved, FilledCache(cache, k, v), values)

    def merged(self) -> nn.Module:
        """See `Adapted.merged`; always refused."""
        raise ValueError(
            "adapter.kind = prefix: expected an adapter that is a change of weights, but a prefix is a memory of "
            "tokens that no weight holds; use it beside its base"
        )


class LaterPositions(Adapted):
    """Positional embeddings of a text that begins at position P: positions (B or 1, T) -> (B or 1, T, D)."""

    def __init__(self, base: nn.Module, n: int):
        super().__init__(base)
        self.n = n

    def forward(self, positions: Tensor) -> Tensor:
        return self.base(later(positions, self.n))

    def merged(self) -> nn.Module:
        """See `PrefixedAttention.merged`."""
        raise ValueError("adapter.kind = prefix: expected an adapter that is a change of weights; see its attentions")


def refuse_long(length: int, context_length: int) -> None:
    """Raise ValueError for virtual tokens that leave no place for a text."""
    if length >= context_length:
        raise ValueError(
            f"adapter.length = {length}: expected less than model.context_length = {context_length}, since virtual "
            "tokens take places of the context; lower it"
        )

"""Soft prompts: only the embeddings of P virtual tokens before every text are trained (Lester et al. 2021).

    model(prompt_1 ... prompt_P, embed(token_1), embed(token_2), ...)        P D trained numbers

The model must be able to do the task already: a soft prompt selects among what it can do, and teaches it little. It can
start as the tokens of a text, such as an instruction, or as random tokens. A virtual token keeps the id of the token
that it started as, for models that look up more than an embedding. In a causal model its keys and values depend on no
token of the text, so they are computed once for all rows of a batch, and the text reads on from there. Read before:
`cache/filled.py`, `prefix`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
from torch import Tensor, nn

from minillm.adapters.adapter import Adapter
from minillm.adapters.inject import Adapted
from minillm.adapters.prefix import refuse_long
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.filled import FilledCache, later
from minillm.cache.kv_cache import KVCache, KVView, NoCache, Positions, Rotate
from minillm.config.fields import Positive, validate
from minillm.layers.positions import positions_of
from minillm.models.cached_state import CachedState
from minillm.models.decoder import Decoder
from minillm.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class SoftPromptConfig(Adapter):
    """A soft prompt."""

    kind: Literal["soft_prompt"] = "soft_prompt"  # kind of adapter
    length: Positive = 16  # virtual tokens; they take places of the context
    text: str = ""  # text whose tokens they are at first, repeated to the length; "": random tokens

    def __post_init__(self) -> None:
        validate(self)

    @property
    def n_virtual(self) -> int:
        return self.length

    def add(self, model: nn.Module) -> "Prompted":
        """See `Adapter.add`. Returns a model that contains `model`."""
        if not isinstance(model, Decoder):
            raise ValueError(
                f"adapter.kind = soft_prompt: expected a decoder, not {type(model).__name__}, since virtual tokens "
                "must not depend on the text after them; take prefix or lora"
            )
        refuse_long(self.length, model.context_length)
        model.requires_grad_(False)
        ids = torch.randint(model.vocab_size, (self.length,)).to(model.embed.weight.device)
        return Prompted(model, ids).train(model.training)

    def begin(self, model: "Prompted", tokenizer: Tokenizer) -> None:
        """See `Adapter.begin`. Raises ValueError for a text that the tokenizer cannot write."""
        if self.text:
            ids = list(islice(cycle(tokenizer.encode(self.text)), self.length))
            model.write(torch.tensor(ids, device=model.ids.device))


class PromptedState(CachedState):
    """The state of a decoder that has read a soft prompt. `lengths` are those of the text, without the prompt."""

    prompt: list[tuple[Tensor, Tensor]] | None = None  # keys and values of the virtual tokens for each cache

    def nbytes(self) -> int:
        """See `State.nbytes`. Includes the virtual tokens."""
        return super().nbytes() + sum(k.nbytes + v.nbytes for k, v in self.prompt or [])


class Prompted(Adapted):
    """A `HiddenModel`: a frozen decoder that reads a soft prompt before every text. (B, T) -> logits (B, T, V)."""

    start_options = frozenset({"cache"})

    def __init__(self, base: Decoder, ids: Tensor):
        """ids: (P,) long, the tokens that the prompt is at first."""
        super().__init__(base)
        self.vocab_size, self.context_length = base.vocab_size, base.context_length - len(ids)
        self.vectors = nn.Parameter(base.embed.weight.new_empty(len(ids), base.embed.embedding_dim))
        self.register_buffer("ids", ids.clone())
        self.write(ids)

    @property
    def head(self) -> nn.Module:
        """See `HiddenModel`."""
        return self.base.head

    @property
    def embed(self) -> Callable[[Tensor], Tensor]:
        """See `HiddenModel`."""
        return self.base.embed

    @torch.no_grad()
    def write(self, ids: Tensor) -> None:
        """Make the prompt the tokens `ids` (P,)."""
        self.ids.copy_(ids)
        self.vectors.copy_(self.base.embed(ids))

    def start(self, batch_size: int, cache: Callable[[], KVCache] = ContiguousCache) -> PromptedState:
        """See `LanguageModel.start`. The prompt is read together with the first tokens."""
        state = self.base.start(batch_size, cache)  # raises ValueError for a cache that does not fit
        return PromptedState(batch_size, state.caches, state.lengths.device, self.context_length, relative=True)

    def forward(self, tokens: Tensor, state: PromptedState | None = None) -> tuple[Tensor, PromptedState | None]:
        """See `LanguageModel.__call__`. Raises ValueError if a row and the prompt would exceed the context."""
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def hidden(
        self, tokens: Tensor, state: PromptedState | None = None, vectors: Tensor | None = None
    ) -> tuple[Tensor, PromptedState | None]:
        """See `HiddenModel.hidden`."""
        positions = positions_of(tokens, self.context_length, None if state is None else state.places)
        if state is None:
            prompt = self.read()
            rests: list[KVCache] = [NoCache() for _ in prompt]
        else:
            prompt, rests = state.prompt or self.read(), state.caches
            state.prompt = prompt
        moved = Positions(later(positions.ids, len(self.ids)), positions.dense)
        caches = [FilledCache(rest, k, v) for rest, (k, v) in zip(rests, prompt, strict=True)]
        x = self.base.read(tokens.clamp(min=0), moved, caches, vectors)
        if state is not None:
            state.lengths = state.lengths + (tokens >= 0).sum(1)
        return x, state

    def read(self) -> list[tuple[Tensor, Tensor]]:
        """Read the prompt: the keys and values of its tokens for each cache of the model, (1, G, P, K)."""
        n_caches = len(self.base.blocks) + self.base.embed_ngrams.n_caches
        pages = [Reading() for _ in range(n_caches)]
        positions = Positions(torch.arange(len(self.ids), device=self.ids.device)[None], dense=True)
        self.base.read(self.ids[None], positions, pages, self.vectors[None])
        return [page.found for page in pages]

    def merged(self) -> nn.Module:
        """See `Adapted.merged`; always refused."""
        raise ValueError(
            "adapter.kind = soft_prompt: expected an adapter that is a change of weights, but a soft prompt stands "
            "before the text; use it beside its base"
        )


class Reading(NoCache):
    """`NoCache` that remembers the keys and values of the last call."""

    def extend(self, k: Tensor, v: Tensor, positions: Positions, rotate: Rotate) -> KVView:
        view = super().extend(k, v, positions, rotate)
        self.found = view.k, view.v
        return view

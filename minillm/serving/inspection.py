"""Inspection: what the model computed for one text, token by token, for the page.

The X-ray of a token shows the distribution before and after each transform (`decoding/explain.py`), a map shows where
one attention looked (`decoding/attention_map.py`), and drafts show speculative decoding (`decoding/speculative.py`).
All are computed again from the ids of the text. They run beside the worker that writes, so they use modules of their
own with the same weights: another thread may run them, and hook them, while the worker's modules are in use. Each
computation is bounded in tokens. Read before: `worker`.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.paged import PagedCache
from minillm.decoding.attention_map import attentions, check_choice, self_attention
from minillm.decoding.drafts import PromptLookup
from minillm.decoding.explain import describe_steps, steps_of
from minillm.decoding.rows import Event
from minillm.decoding.sampler import Sampler, SamplingConfig, invert, seeded, uniforms
from minillm.decoding.speculative import Verification, stream
from minillm.decoding.stopping import StopText
from minillm.decoding.transforms import widen
from minillm.models.language_model import LanguageModel, device_of, evaluating
from minillm.serving.formats import Spelling
from minillm.text.model import TextModel

MOST_READ = 4096  # tokens of a text whose token is shown
MOST_MAPPED = 1024  # tokens of a text whose attention is shown
MOST_DRAFTED = 256  # new tokens of a text that is written with drafts
N_DRAFT = 4  # tokens of each draft
N_CANDIDATES = 8  # most probable tokens of the model, and again of the last step
N_SIDE = 64  # last tokens of a text that a map shows
CHUNK = 256  # tokens that are read at once


class Drawing(NamedTuple):
    """A prompt with the settings by which its completion is drawn."""

    prompt: Sequence[int]
    sampling: SamplingConfig
    seed: int


class Inspector:
    """Inspects the texts of one model. Not thread-safe: call all methods from one thread."""

    def __init__(self, text: TextModel):
        self.text, self.model = text, with_own_modules(text.model)
        self.device, self.spelling = device_of(text.model), Spelling(text.tokenizer)
        self.layers = attentions(self.model) if isinstance(self.model, nn.Module) else []

    @property
    def by_ids(self) -> bool:
        """Whether the model reads ids; otherwise an encoder reads text, and there is no id to branch from."""
        return "source" not in self.model.start_options

    def describe(self) -> dict[str, Any]:
        """The views of this model that the page can show, and the bytes of its state."""
        return {
            "chat": self.text.template is not None,
            "context": self.model.context_length,
            "inspects": self.by_ids,
            "layers": len(self.layers) if self.by_ids else 0,
            "heads": self.layers[0].n_heads if self.by_ids and self.layers else 0,
            "drafts": self.by_ids and self.model.start(1).rollback != "none",
            "bytes_per_token": self._bytes_per_token() if self.model.start_options == {"cache"} else 0,
        }

    def pipeline(self, sampling: SamplingConfig) -> str:
        """The sampler in words."""
        return str(self._sampler(sampling, 1))

    @torch.inference_mode()
    def xray(self, drawing: Drawing, answer: Sequence[int], n_given: int, taken: int | None) -> dict[str, Any]:
        """The distributions from which the token after `answer` is drawn, before and after each transform.

        n_given: tokens at the beginning of the answer that were not drawn. taken: the token that follows, if any; it is
        among the candidates, even if this computation, with other rounding, draws another one. Raises ValueError for a
        text that is too long, and if no token can be drawn.
        """
        ids = [*drawing.prompt, *answer]
        self._check(ids, MOST_READ)
        logits, history = widen(self._read(ids)), torch.tensor([ids], device=self.device)
        sampler = self._sampler(drawing.sampling, len(drawing.prompt) + n_given)
        steps = steps_of(sampler.pipeline, logits, history)
        number = self._uniform(sampler, drawing.seed, len(answer) - n_given)
        drawn = int(invert(steps[-1][1], number))
        beliefs, shown = [step.double().softmax(-1)[0] for _, step in steps], drawn if taken is None else taken
        return {
            "stages": [
                {"step": stage.step, "left": stage.n_possible, "removed": stage.removed, "entropy": stage.entropy}
                for stage in describe_steps(steps)
            ],
            "candidates": [
                self.name(token, ids[-1]) | {"p": [float(p[token]) for p in beliefs]}
                for token in self._candidates(beliefs, shown)
            ],
            "uniform": None if sampler.greedy else float(number),
            "drawn": drawn,
        }

    def attention(self, ids: Sequence[int], layer: int, head: int) -> dict[str, Any]:
        """The weights of the last queries over the last keys, both at most N_SIDE, and over all keys before those.

        layer: counted from 1. head: the same, 0 for the mean over heads. Raises ValueError for one that the model does
        not have, and for a text that is too long.
        """
        if not self.layers:
            raise ValueError("attention: expected a model with attention; this one has none")
        check_choice(layer, head, len(self.layers), self.layers[0].n_heads)
        self._check(ids, MOST_MAPPED)
        with evaluating(self.model):
            tokens = torch.tensor([list(ids)], device=self.device)
            weights = self_attention(self.model, tokens, layer, N_SIDE)[0, 0].double()  # (H, n, T)
        chosen = weights[head - 1] if head else weights.mean(0)
        begin = max(0, len(ids) - N_SIDE)
        return {
            "begin": begin,
            "tokens": [self.name(token)["text"] for token in ids[begin:]],
            "weights": [[round(weight, 4) for weight in row] for row in chosen[:, begin:].tolist()],
            "earlier": [round(weight, 4) for weight in chosen[:, :begin].sum(1).tolist()],
        }

    def drafts(self, drawing: Drawing, max_new_tokens: int) -> Iterator[dict[str, Any]]:
        """Write a text with drafts by prompt lookup: for each call of the target, its new and its rejected tokens.

        Raises ValueError before anything is read, as `speculative.stream`, and for a text that is too long.
        """
        self._check(drawing.prompt, MOST_READ)
        calls: list[Verification] = []
        events = stream(
            self.model,
            [drawing.prompt],
            self._sampler(drawing.sampling, len(drawing.prompt)),
            drafter=PromptLookup(self.model.vocab_size),
            max_new_tokens=min(max_new_tokens, MOST_DRAFTED),
            generators=seeded([drawing.seed]),
            end_id=self.text.tokenizer.end_id,
            stops=[StopText(self.text.tokenizer, prompt=drawing.prompt)],
            n_draft=N_DRAFT,
            watch=calls.append,
        )
        return (self._verdict(calls.pop(), found) for found in events if calls)

    def name(self, token: int, before: int | None = None) -> dict[str, Any]:
        """A token for people: `text` shows the bytes of a part of a character, `piece` is what it adds after `before`.

        `special`: it is a mark and adds nothing.
        """
        data, text = self.spelling.bytes_of(token), self.spelling.name(token).removeprefix("bytes:")
        piece = b"" if data is None else self.text.tokenizer.piece(token, before)
        return {"id": token, "text": text, "piece": piece.decode(errors="replace"), "special": data is None}

    def _verdict(self, call: Verification, events: Sequence[Event]) -> dict[str, Any]:
        drafted = [token for token in call.draft.tokens[0].tolist() if token >= 0]
        n_accepted = int(call.n_accepted)
        tokens = [event.token for event in events if event.token is not None]
        return {
            "accepted": [self.name(token) for token in tokens[:n_accepted]],
            "rejected": [self.name(token) for token in drafted[n_accepted:]],
            "drawn": [self.name(token) for token in tokens[n_accepted:]],
            "reason": events[-1].reason,
        }

    def _candidates(self, beliefs: Sequence[Tensor], token: int) -> list[int]:
        """The most probable tokens of the last step, then `token`, then the most probable ones of the model."""
        of_last, of_model = (belief.topk(min(N_CANDIDATES, len(belief))) for belief in (beliefs[-1], beliefs[0]))
        possible = of_last.indices[of_last.values > 0].tolist()
        return [*dict.fromkeys([*possible, token, *of_model.indices.tolist()])]

    def _sampler(self, sampling: SamplingConfig, n_prompt: int) -> Sampler:
        return self.text.sampler(sampling, [[self.text.tokenizer.end_id] * n_prompt])

    def _uniform(self, sampler: Sampler, seed: int, n_before: int) -> Tensor:
        """The uniform number (1,) that draws a token after `n_before` others; a greedy sampler does not use it."""
        generators = seeded([seed])
        for _ in range(n_before):
            uniforms(generators, self.device)
        return uniforms(generators, self.device)

    def _read(self, ids: Sequence[int]) -> Tensor:
        """The logits (1, V) after the last of the ids."""
        with evaluating(self.model):
            state = self.model.start(1)
            for begin in range(0, len(ids), CHUNK):
                logits, state = self.model(torch.tensor([ids[begin : begin + CHUNK]], device=self.device), state)
        return logits[:, -1]

    def _check(self, ids: Sequence[int], most: int) -> None:
        context = self.model.context_length
        most = most if context is None else min(most, context)
        if not 1 <= len(ids) <= most:
            raise ValueError(f"text of {len(ids)} tokens: expected 1 to {most}, to show it; shorten it")

    @torch.inference_mode()
    def _bytes_per_token(self) -> int:
        """The keys and values of one token, in a cache with one page of one token."""
        state = self.model.start(1, cache=partial(PagedCache, n_pages=1, page_size=1))
        with evaluating(self.model):
            _, state = self.model(torch.tensor([[0]], device=self.device), state)
        return state.nbytes()


def with_own_modules(model: LanguageModel) -> LanguageModel:
    """A copy of a model that shares its parameters and buffers, and nothing that changes."""
    if not isinstance(model, nn.Module):
        return model
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})

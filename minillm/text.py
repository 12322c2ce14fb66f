"""A model and its tokenizer: something you can talk to.

Training on many documents begins every document with END, so every prompt does too. Training on one long text never shows an
END, so a prompt there opens with a new line, as a paragraph does.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.base import KVCache
from minillm.config import Count, validate
from minillm.datasets.labels import ENDINGS
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import spaced
from minillm.decoding.beam import FORBIDDING, BeamConfig, beam_search
from minillm.decoding.captured import captured
from minillm.decoding.generate import Completion, Reason, generate, pad_right
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.models.base import LanguageModel, State
from minillm.models.heads import nearest, sentence_vectors
from minillm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class TextConfig:
    """What to write, where nobody says otherwise."""

    prompt: str = ""  # text to go on from
    max_new_tokens: Count = 200  # tokens to write at most

    def __post_init__(self) -> None:
        validate(self)


class TextCompletion(NamedTuple):
    """What was written after a prompt, and why it stopped."""

    prompt: str
    text: str
    n_tokens: int
    reason: Reason


class TextHypothesis(NamedTuple):
    """What beam search found after a prompt."""

    text: str
    score: float  # logprob / length^alpha
    logprob: float  # nats
    length: int  # tokens, END included


class TextModel:
    """Text in, text out."""

    joint = ""  # what stands between a prompt and its completion where both are shown

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents

    def encode(self, prompt: str) -> list[int]:
        """The ids that the model reads before it writes. Raises ValueError for characters that the tokenizer lacks."""
        return [*opening(self.tokenizer, self.documents), *self.tokenizer.encode(prompt)]

    def sampler(self, sampling: SamplingConfig, prompts: Sequence[str]) -> Sampler:
        """The pipeline in force for these prompts: print it."""
        lengths = [len(self.encode(prompt)) for prompt in prompts]
        vocab_size = self.tokenizer.vocab_size if self.tokenizer.vocab_size < self.model.vocab_size else None
        return Sampler(build_pipeline(sampling, vocab_size=vocab_size, end_id=self.tokenizer.end_id, prompt_lengths=lengths))

    def generate(
        self,
        prompts: Sequence[str],
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        seeds: Sequence[int],
        stop: Sequence[str] = (),
        show: Callable[[str], object] | None = None,
        use_cache: bool = True,
        write: Callable[..., list[Completion]] = generate,
        start: Callable[[int], State] | None = None,
    ) -> list[TextCompletion]:
        """Complete every prompt, in order, one seed each; each text is cut before the first of the `stop` strings.

        `show` receives the text of the first prompt's completion as it comes. `write` is the loop: `generate`, or `speculate` with a
        drafter. `start` is what `self.start` made for these prompts, where another cache is wanted. Raises ValueError for a prompt
        that cannot be read.
        """
        watchers = [StopText(self.tokenizer, stop, show if row == 0 else None) for row in range(len(prompts))]
        start = start or self.start(prompts)
        completions = write(
            captured(self.model) if write is generate and use_cache and start is None else self.model,
            [self.encode(prompt) for prompt in prompts],
            self.sampler(sampling, prompts),
            max_new_tokens=max_new_tokens,
            generators=seeded(seeds),
            end_id=self.tokenizer.end_id,
            stops=watchers,
            use_cache=use_cache,
            start=start,
        )
        for watcher in watchers:
            watcher.finish()
        return [
            TextCompletion(prompt, watcher.text, len(completion.tokens), completion.reason)
            for prompt, watcher, completion in zip(prompts, watchers, completions, strict=True)
        ]

    def search(
        self,
        prompt: str,
        beams: BeamConfig,
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        start: Callable[[int], State] | None = None,
    ) -> list[TextHypothesis]:
        """The best completions that beam search finds, the best first. Of `sampling` only what forbids tokens counts.

        `start` as in `generate`. Raises ValueError for a prompt that cannot be read.
        """
        forbidding = SamplingConfig(**{name: getattr(sampling, name) for name in FORBIDDING})
        how = {"max_new_tokens": max_new_tokens, "end_id": self.tokenizer.end_id, "start": start or self.start([prompt])}
        [found] = beam_search(self.model, [self.encode(prompt)], beams, self.sampler(forbidding, [prompt]), **how)
        return [TextHypothesis(self.tokenizer.decode(each.tokens), each.score, each.logprob, each.length) for each in found]

    def start(self, prompts: Sequence[str], cache: Callable[[], KVCache] | None = None) -> Callable[[int], State] | None:
        """What makes the state that generation starts from, with `cache()` for each layer; None: the model alone.

        Raises ValueError for the cache of a model that keeps no keys and values.
        """
        if cache is None:
            return None
        if "cache" not in inspect.signature(self.model.start).parameters:
            raise ValueError(f"cache: expected none beside {type(self.model).__name__}, which keeps no keys and values; leave it out")
        return partial(self.model.start, cache=cache)


class Translator(TextModel):
    """Text in one language in, text in another out: the prompt is what the encoder reads, and the decoder begins with END."""

    joint = " ->"  # a translation begins with its space

    def encode(self, prompt: str) -> list[int]:
        """The ids that the decoder reads before it writes."""
        return [self.tokenizer.end_id]

    def encode_source(self, prompt: str) -> list[int]:
        """The ids that the encoder reads. Raises ValueError where there is nothing to read, and as `TextModel.encode`."""
        if not prompt.strip():
            raise ValueError(f"prompt = {prompt!r}: expected a sentence to translate; give one with --prompt")
        return [*self.tokenizer.encode(spaced(prompt)), self.tokenizer.end_id]

    def start(self, prompts: Sequence[str], cache: Callable[[], KVCache] | None = None) -> Callable[[int], State]:
        """The memory of these sources."""
        return partial(super().start(prompts, cache) or self.model.start, source=self._sources(prompts))

    def align(self, prompt: str, translation: str) -> tuple[list[str], list[str], Tensor]:
        """The pieces of a source, those of its translation, and where each one looked when it was written: (L, T, S).

        A mean over the heads of each layer; the rows of the last two sum to 1. END stands for itself.
        """
        source, tokens = self._sources([prompt]), [*self.tokenizer.encode(spaced(translation)), self.tokenizer.end_id]
        read = torch.tensor([[self.tokenizer.end_id, *tokens[:-1]]], device=source.device)
        weights = self.model.alignment(read, source).mean(2)[:, 0]  # (L, T, S)
        source_pieces, pieces = ([self.tokenizer.decode([i]).strip() or "END" for i in ids] for ids in (source[0].tolist(), tokens))
        return source_pieces, pieces, weights

    def _sources(self, prompts: Sequence[str]) -> Tensor:
        return pad_right([self.encode_source(prompt) for prompt in prompts]).to(self.model.embed.weight.device)


class Candidate(NamedTuple):
    """What may stand in a blank."""

    text: str  # with the space before it, if it has one
    probability: float


class Cloze:
    """Texts with blanks in, what may stand there out: an encoder and its tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents
        pieces = (tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size))
        spaced = any(len(piece) > 1 and piece.startswith(b" ") for piece in pieces)
        self.blank = re.compile((" ?" if spaced else "") + re.escape(MASK))  # a word brings the space before it along, if words do

    def encode(self, text: str) -> list[int]:
        """The ids that the model reads, each [MASK] one of them, and so one token: a word, if the tokenizer has it whole."""
        ids = opening(self.tokenizer, self.documents)
        for i, part in enumerate(self.blank.split(text)):
            ids += [*([self.model.mask_id] if i else []), *self.tokenizer.encode(part)]
        return ids

    @torch.inference_mode()
    def fill(self, text: str, n: int) -> list[list[Candidate]]:
        """The n most probable tokens for each [MASK] in a text, given what stands around it. Raises ValueError where there is none.

        Probabilities are over the tokens of texts: neither END nor [MASK] can stand in a blank.
        """
        if MASK not in text:
            raise ValueError(f'"{text}": expected a text with {MASK} in it, as in "The {MASK} sat on the mat"; write {MASK} for each blank')
        tokens = torch.tensor([self.encode(text)], device=next(self.model.parameters()).device)
        logits = self.model(tokens)[tokens == self.model.mask_id][:, : self.tokenizer.vocab_size].float()  # (blanks, V)
        logits[:, self.tokenizer.end_id] = -torch.inf
        best = logits.softmax(-1).topk(min(n, self.tokenizer.vocab_size - 1))
        return [
            [Candidate(self.tokenizer.decode([token]), p) for token, p in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def show(self, text: str, n: int) -> str:
        """`fill` as a table to print, and the text with the best candidate in each blank."""
        blanks, lines, written = self.fill(text, n), [], text
        for i, candidates in enumerate(blanks, start=1):
            lines += [f"blank {i}"] + [f"  {candidate.probability:7.4f}  {candidate.text!r}" for candidate in candidates]
            written = self.blank.sub(lambda _, best=candidates[0]: best.text, written, count=1)
        return "\n".join([*lines, "", written])

    @torch.inference_mode()
    def nearest(self, text: str, among: Sequence[str], n: int) -> list[tuple[str, float]]:
        """The n texts whose vectors point most nearly where that of `text` points, with the cosines, the best first."""
        rows = torch.cat([sentence_vectors(self.model, self._batch(among[i : i + 256])) for i in range(0, len(among), 256)])
        [query] = sentence_vectors(self.model, self._batch([text]))
        return [(among[row], cosine) for row, cosine in nearest(query, rows, n)]

    def _batch(self, texts: Sequence[str]) -> Tensor:
        return pad_right([self.encode(text) for text in texts]).to(next(self.model.parameters()).device)


class TextClassifier:
    """A text in, the probability of each label out."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents

    @torch.inference_mode()
    def tell(self, text: str) -> dict[str, float]:
        """Label -> probability. Raises ValueError for a text that is longer than the context."""
        ids = [*opening(self.tokenizer, self.documents), *self.tokenizer.encode(text)]
        [logits] = self.model(torch.tensor([ids], device=next(self.model.parameters()).device))
        return dict(zip(ENDINGS, logits.float().softmax(-1).tolist(), strict=True))


def opening(tokenizer: Tokenizer, documents: bool) -> list[int]:
    """What stands before the first token of a text."""
    if not documents:
        try:
            return tokenizer.encode("\n")
        except ValueError:  # an alphabet of characters without a new line
            pass
    return [tokenizer.end_id]

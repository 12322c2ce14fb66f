"""A model and its tokenizer: something you can talk to.

Training on many documents begins every document with END, so every prompt does too. Training on one long text never shows an
END, so a prompt there opens with a new line, as a paragraph does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.cache.base import EMPTY
from minillm.config import Count, validate
from minillm.datasets.pairs import spaced
from minillm.decoding.generate import Reason, generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.models.base import LanguageModel, State
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


class TextModel:
    """Text in, text out."""

    joint = ""  # what stands between a prompt and its completion where both are shown

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, documents: bool):
        """`documents`: whether training text was many documents, or one long text."""
        self.model, self.tokenizer, self.documents = model, tokenizer, documents

    def encode(self, prompt: str) -> list[int]:
        """The ids that the model reads before it writes. Raises ValueError for characters that the tokenizer lacks."""
        return [*self._opening(), *self.tokenizer.encode(prompt)]

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
    ) -> list[TextCompletion]:
        """Complete every prompt, in order, one seed each; each text is cut before the first of the `stop` strings.

        `show` receives the text of the first prompt's completion as it comes. Raises ValueError for a prompt that cannot be read.
        """
        watchers = [StopText(self.tokenizer, stop, show if row == 0 else None) for row in range(len(prompts))]
        completions = generate(
            self.model,
            [self.encode(prompt) for prompt in prompts],
            self.sampler(sampling, prompts),
            max_new_tokens=max_new_tokens,
            generators=seeded(seeds),
            end_id=self.tokenizer.end_id,
            stops=watchers,
            use_cache=use_cache,
            start=self.start(prompts),
        )
        for watcher in watchers:
            watcher.finish()
        return [
            TextCompletion(prompt, watcher.text, len(completion.tokens), completion.reason)
            for prompt, watcher, completion in zip(prompts, watchers, completions, strict=True)
        ]

    def start(self, prompts: Sequence[str]) -> Callable[[int], State] | None:
        """What makes the state that generation starts from; None: the model alone."""
        return None

    def _opening(self) -> list[int]:
        if not self.documents:
            try:
                return self.tokenizer.encode("\n")
            except ValueError:  # an alphabet of characters without a new line
                pass
        return [self.tokenizer.end_id]


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

    def start(self, prompts: Sequence[str]) -> Callable[[int], State]:
        """The memory of these sources."""
        return partial(self.model.start, source=self._sources(prompts))

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
        rows = [self.encode_source(prompt) for prompt in prompts]
        width = max(map(len, rows))
        return torch.tensor([row + [EMPTY] * (width - len(row)) for row in rows], device=self.model.embed.weight.device)

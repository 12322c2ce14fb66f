"""A model and its tokenizer: something you can talk to.

Training on many documents begins every document with END, so every prompt does too. Training on one long text never shows an
END, so a prompt there opens with a new line, as a paragraph does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minillm.config import Count, validate
from minillm.decoding.generate import Reason, generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.models.base import LanguageModel
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
        )
        for watcher in watchers:
            watcher.finish()
        return [
            TextCompletion(prompt, watcher.text, len(completion.tokens), completion.reason)
            for prompt, watcher, completion in zip(prompts, watchers, completions, strict=True)
        ]

    def _opening(self) -> list[int]:
        if not self.documents:
            try:
                return self.tokenizer.encode("\n")
            except ValueError:  # an alphabet of characters without a new line
                pass
        return [self.tokenizer.end_id]

"""Text model: a language model and its tokenizer, to generate, search for and score text.

In a training text of many documents, END is before each document, so a prompt begins with END too. A single long
text has no END inside, so a prompt begins with a newline, as a paragraph does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.cache.kv_cache import KVCache
from minillm.config.fields import Count, validate
from minillm.datasets.masking import MASK
from minillm.decoding.attention_map import AttentionMap, self_attention
from minillm.decoding.beam import FORBIDDING, BeamConfig, beam_search
from minillm.decoding.generate import generate
from minillm.decoding.rows import Completion, Reason
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.decoding.stopping import StopText
from minillm.models.language_model import LanguageModel, State
from minillm.speed.accelerate import accelerate, accelerate_writing
from minillm.text.scoring import Question, ScoredToken, refuse_bare, score_tokens, split_at
from minillm.tokenizers.chat import Message, Template
from minillm.tokenizers.role_template import own_template
from minillm.tokenizers.tokenizer import Tokenizer

Prompt = str | Sequence[int]  # a text, or its ids as they are, such as those of a conversation


@dataclass(frozen=True)
class TextConfig:
    """Default prompt and length of generated text, and the notation of conversations."""

    prompt: str = ""  # text to continue
    max_new_tokens: Count = 200  # most tokens to generate
    template: str = ""  # chat template of the model, in Jinja; "": none

    def __post_init__(self) -> None:
        validate(self)


class TextCompletion(NamedTuple):
    """A completion: the text generated after a prompt, and the reason why it ended."""

    prompt: Prompt
    text: str
    n_tokens: int
    reason: Reason


class TextHypothesis(NamedTuple):
    """A hypothesis of beam search: a completion and its score."""

    text: str
    score: float  # logprob / length^alpha
    logprob: float  # nats
    length: int  # tokens, END included


class TextModel:
    """A language model and its tokenizer: text in, text out."""

    joint = ""  # printed between a prompt and its completion

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, documents: bool, fast: bool = True):
        """`documents`: whether the training text was many documents or one long text. `fast`: use the fast twins."""
        self.model, self.tokenizer, self.documents, self.fast = model, tokenizer, documents, fast
        self.template: Template | None = own_template(tokenizer)  # of conversations; None: it has learned from none

    def converse(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation and of the beginning of its next answer. Raises ValueError without a template."""
        if self.template is None:
            raise ValueError(
                "template: expected a model that has learned from conversations, found one without a chat template; "
                "name another run, or give a prompt to continue"
            )
        return self.template.render(messages)

    @property
    def writer(self) -> LanguageModel:
        """The model that computes: the accelerated one, or the plain one if `fast` is false."""
        return accelerate(self.model) if self.fast else self.model

    @property
    def opening(self) -> list[int]:
        """The ids before every text; none for some tokenizers of other people."""
        return opening(self.tokenizer, self.documents)

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt; END for none at all. Raises ValueError for characters that the tokenizer lacks."""
        if not isinstance(prompt, str):
            return list(prompt)
        ids = [*self.opening, *self.tokenizer.encode(prompt)]
        return ids or [self.tokenizer.end_id]

    def sampler(self, sampling: SamplingConfig, prompts: Sequence[Prompt]) -> Sampler:
        """The sampling pipeline for these prompts; it can be printed."""
        lengths = [len(self.encode(prompt)) for prompt in prompts]
        vocab_size = self.tokenizer.vocab_size if self.tokenizer.vocab_size < self.model.vocab_size else None
        ends = {"end_id": self.tokenizer.end_id, "stop_ids": self.tokenizer.stop_ids}
        return Sampler(build_pipeline(sampling, vocab_size=vocab_size, prompt_lengths=lengths, **ends))

    def generate(
        self,
        prompts: Sequence[Prompt],
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
        """Complete every prompt, each with its own seed, in order; a text ends before the first of the `stop` strings.

        `show` receives the completion of the first prompt piece by piece. `write` is the generation loop: `generate`,
        or `speculate` with a drafter. `start`: from `self.start` for these prompts, to use another cache. Raises
        ValueError for a prompt that the model cannot read.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        watchers = [
            StopText(self.tokenizer, stop, show if row == 0 else None, prompt) for row, prompt in enumerate(ids)
        ]
        start = start or self.start(prompts)
        token_by_token = self.fast and write is generate and use_cache and start is None
        completions = write(
            accelerate_writing(self.model) if token_by_token else self.writer,
            ids,
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
        prompt: Prompt,
        beams: BeamConfig,
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        start: Callable[[int], State] | None = None,
    ) -> list[TextHypothesis]:
        """Beam search: the best completions that it finds, the best first.

        Of `sampling`, only the settings that forbid tokens apply. `start` as in `generate`. Raises ValueError for a
        prompt that the model cannot read.
        """
        forbidding = SamplingConfig(**{name: getattr(sampling, name) for name in FORBIDDING})
        how = {
            "max_new_tokens": max_new_tokens,
            "end_id": self.tokenizer.end_id,
            "stop_ids": self.tokenizer.stop_ids,
            "start": start or self.start([prompt]),
        }
        [found] = beam_search(self.writer, [self.encode(prompt)], beams, self.sampler(forbidding, [prompt]), **how)
        return [
            TextHypothesis(self.tokenizer.decode(each.tokens), each.score, each.logprob, each.length) for each in found
        ]

    def logprobs(self, texts: Sequence[str], contexts: Sequence[str] | None = None) -> list[list[ScoredToken]]:
        """Every token of each text with its log-probability in nats, given its context and the tokens before it.

        Without contexts, each text is scored from its beginning, like a document in training. Context and text are
        tokenized together; a token that crosses the border belongs to the text (see `scoring`). Raises ValueError for
        an empty text, and for a text that is longer, with its context, than the model's context: nothing is cut off.
        """
        contexts = [""] * len(texts) if contexts is None else contexts
        for name, given in (("texts", texts), ("contexts", contexts)):
            refuse_bare(name, given)
        if len(contexts) != len(texts):
            raise ValueError(f"{len(contexts)} contexts: expected one for each of the {len(texts)} texts")
        if "" in texts:
            raise ValueError(f"text {list(texts).index('')} = '': expected at least one character to score")
        questions = [self._question(context, text) for context, text in zip(contexts, texts, strict=True)]
        found = score_tokens(self.writer, questions, self._read)
        return [
            [
                ScoredToken(self.tokenizer.decode([token]), logprob)
                for token, logprob in zip(question.ids[question.n_given :], logprobs, strict=True)
            ]
            for question, logprobs in zip(questions, found, strict=True)
        ]

    def score(self, contexts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """The log-probability in nats of each continuation, given its context: the sum of its `logprobs`.

        score(c, a + b) = score(c, a) + score(c + a, b) wherever a token ends between a and b. Errors as `logprobs`.
        """
        return [math.fsum(token.logprob for token in tokens) for tokens in self.logprobs(continuations, contexts)]

    def _question(self, context: str, text: str) -> Question:
        """The tokens of a text to score, after the opening tokens and those of its context."""
        before = self.encode("")
        tokens, n_given = split_at(self.tokenizer, context, text)
        return Question([*before, *tokens], len(before) + n_given)

    def _read(self, tokens: Tensor, about: list[object]) -> Tensor:
        """The logits (B, T, V) of tokens (B, T)."""
        return self.writer(tokens)[0]

    def start(
        self, prompts: Sequence[Prompt], cache: Callable[[], KVCache] | None = None
    ) -> Callable[[int], State] | None:
        """A function that makes the initial state, with `cache()` for each layer; None: the model's own start.

        Raises ValueError for a cache if the model keeps no keys and values.
        """
        if cache is None:
            return None
        if "cache" not in self.model.start_options:
            raise ValueError(
                f"cache: expected none beside {type(self.model).__name__}, which keeps no keys and values; leave it out"
            )
        return partial(self.writer.start, cache=cache)

    def attention(self, prompt: str, written: str) -> AttentionMap:
        """Self-attention weights of a prompt and its completion. Raises ValueError if they exceed the context."""
        return read_attention(self.model, self.tokenizer, self.encode(prompt + written))


def read_attention(model: nn.Module, tokenizer: Tokenizer, ids: list[int]) -> AttentionMap:
    """Self-attention weights over ids; END and [MASK] are shown by name, all other tokens in quotes."""
    names = {tokenizer.end_id: "END", tokenizer.vocab_size: MASK}
    pieces = [names.get(i) or repr(tokenizer.decode([i])) for i in ids]
    weights = self_attention(model, torch.tensor([ids], device=next(model.parameters()).device))
    return AttentionMap(pieces, pieces, weights[:, 0].float())


def opening(tokenizer: Tokenizer, documents: bool) -> list[int]:
    """The tokens before every text: the tokenizer's own, else END, or a newline if the training text was one text."""
    if tokenizer.opening is not None:
        return list(tokenizer.opening)
    if not documents:
        try:
            return tokenizer.encode("\n")
        except ValueError:  # an alphabet of characters without a new line
            pass
    return [tokenizer.end_id]

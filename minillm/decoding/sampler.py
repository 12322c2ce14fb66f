"""Sampling is a visible, ordered, pure list of transforms, and one draw.

The order is fixed: what is forbidden, penalties, temperature, top-k, top-p, min-p, typical, draw. Each step sees a distribution
that the one before has renormalised, so the order matters: temperature before top-p flattens what top-p then measures. The draw
inverts the cumulative distribution, token = the first whose cumulative probability exceeds u, with u uniform on [0, 1), all in
float64. One generator a row and one u a draw: a row draws the same alone and in any company.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from torch import Tensor

from minillm.config.fields import Above, AtLeast, Count, Fraction, validate
from minillm.decoding.penalties import (
    BannedTokens,
    FrequencyPenalty,
    MinNewTokens,
    NoRepeatNGram,
    OnlyFirst,
    PresencePenalty,
    RepetitionPenalty,
)
from minillm.decoding.transforms import MinP, Temperature, TopK, TopP, Transform, Typical


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen; the defaults draw from the model's own distribution."""

    temperature: Annotated[float, AtLeast(0)] = 1.0  # divides the logits; below 1 sharper, 0 greedy
    top_k: Count = 0  # keep the k most probable tokens; 0: off, 1: greedy
    top_p: Fraction = 1.0  # keep the fewest tokens whose mass reaches p; 1: off, 0: greedy
    min_p: Fraction = 0.0  # keep tokens at least this fraction as probable as the best; 0: off
    typical_p: Fraction = 1.0  # keep the most typical tokens whose mass reaches p; 1: off
    repetition_penalty: Annotated[float, Above(0)] = (
        1.0  # divides the logits of tokens seen before, prompt included; 1: off
    )
    presence_penalty: float = 0.0  # subtracted from the logit of a token seen before; 0: off
    frequency_penalty: float = 0.0  # subtracted from the logit of a token each time it was seen; 0: off
    no_repeat_ngram: Count = 0  # never write the same n tokens twice; 0: off
    min_new_tokens: Count = 0  # the text may not end before this many new tokens; 0: off
    banned_tokens: tuple[int, ...] = ()  # ids that are never drawn

    def __post_init__(self) -> None:
        validate(self)


def build_pipeline(
    sampling: SamplingConfig,
    *,
    vocab_size: int | None = None,
    end_id: int | None = None,
    prompt_lengths: Sequence[int] = (),
) -> list[Transform]:
    """The transforms that a config asks for, in their order; steps that would change nothing are left out.

    vocab_size: ids at or above it are never drawn (the tokenizer's, where the model's may be larger). end_id and
    prompt_lengths (one a row, or one for all) are needed for min_new_tokens. Raises ValueError where they are missing.
    """
    if sampling.min_new_tokens and end_id is None:
        raise ValueError(
            f"min_new_tokens = {sampling.min_new_tokens}: expected 0, because no token ends the text; give end_id"
        )
    if sampling.min_new_tokens and not prompt_lengths:
        raise ValueError(
            f"min_new_tokens = {sampling.min_new_tokens}: expected the rows' prompt_lengths to count from; give them"
        )
    pipeline: list[Transform] = []
    if vocab_size is not None:
        pipeline.append(OnlyFirst(vocab_size))
    if sampling.banned_tokens:
        pipeline.append(BannedTokens(sampling.banned_tokens))
    if sampling.min_new_tokens:
        pipeline.append(MinNewTokens(sampling.min_new_tokens, end_id, tuple(prompt_lengths)))
    if sampling.no_repeat_ngram:
        pipeline.append(NoRepeatNGram(sampling.no_repeat_ngram))
    if sampling.repetition_penalty != 1:
        pipeline.append(RepetitionPenalty(sampling.repetition_penalty))
    if sampling.presence_penalty:
        pipeline.append(PresencePenalty(sampling.presence_penalty))
    if sampling.frequency_penalty:
        pipeline.append(FrequencyPenalty(sampling.frequency_penalty))
    if sampling.temperature != 1:
        pipeline.append(Temperature(sampling.temperature))
    if sampling.top_k:
        pipeline.append(TopK(sampling.top_k))
    if sampling.top_p < 1:
        pipeline.append(TopP(sampling.top_p))
    if sampling.min_p:
        pipeline.append(MinP(sampling.min_p))
    if sampling.typical_p < 1:
        pipeline.append(Typical(sampling.typical_p))
    return pipeline


def describe(pipeline: Sequence[Transform]) -> str:
    """The pipeline for people: "temperature 0.7 -> top-k 50 -> draw"."""
    return " -> ".join([*map(str, pipeline), "draw"])


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a row: the same seed draws the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token a row, (B,) long, from softmax(logits (B, V)); each row takes one uniform number from its own generator.

    Raises ValueError for a row without a distribution: every token banned, or logits that are not finite.
    """
    if logits.dim() != 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)}: expected (B, V); of (B, T, V) shape the last ones, logits[:, -1]"
        )
    if len(generators) != len(logits):
        raise ValueError(f"{len(generators)} generators: expected one for each of the {len(logits)} rows")
    return invert(logits, uniforms(generators, logits.device))


def uniforms(generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """One number in [0, 1) from each generator, float64 (B,)."""
    return torch.stack(
        [torch.rand((), generator=g, dtype=torch.float64, device=g.device).to(device) for g in generators]
    )


def invert(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The tokens (B,) at which the cumulative distributions of logits (B, V) pass uniforms (B,) in [0, 1). ValueError as `draw`."""
    probs = logits.double().softmax(-1)
    check_distribution(probs)
    return pass_at(probs, uniforms)


def check_distribution(numbers: Tensor) -> None:
    """Raises ValueError where one is not finite: probabilities, or the largest logits."""
    if not math.isfinite(numbers.sum()):  # subtle: a finite sum has none but finite terms, and is one operation
        raise ValueError(
            "logits: expected a finite one in every row; the model diverged, or every token is banned (loosen the penalties)"
        )


def pass_at(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The tokens (B,) at which the sums of probabilities (B, V), float64, pass uniforms (B,); some token where none is possible."""
    possible, passed = probs > 0, probs.cumsum(-1) > uniforms[:, None]
    # subtle: a sum may end below 1, and one that is computed in parallel may rise at a zero; so the last possible token always
    # counts as passed, and an impossible one never does
    last = probs.shape[1] - 1 - possible.flip(-1).byte().argmax(-1, keepdim=True)
    return (passed.scatter(-1, last, True) & possible).byte().argmax(-1)


@dataclass(frozen=True)
class Sampler:
    """Shape the logits, then draw. Printed, it is its pipeline."""

    pipeline: Sequence[Transform] = ()

    def shape(self, logits: Tensor, history: Tensor) -> Tensor:
        """The logits (B, V) of the distribution that is drawn from, in float32 at least."""
        for transform in self.pipeline:
            logits = transform(logits, history)
        return logits

    def __call__(self, logits: Tensor, history: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """One token a row, (B,) long. logits: (B, V); history: (B, T), EMPTY where no token stands. ValueError as `draw`.

        Temperature 0 leaves one token: it is taken as it is found, without a distribution to draw it from, and no generator moves.
        """
        if not self.greedy:
            return draw(self.shape(logits, history), generators)
        best = self.before_greedy.shape(logits, history).max(-1)
        check_distribution(best.values)
        return best.indices

    def guess(self, logits: Tensor, history: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each row the distribution (B, V), float64; the token where it passes `uniforms` (B,); whether there is one at all, (B,)."""
        if not self.greedy:
            probs = self.shape(logits, history).double().softmax(-1)
            return probs, pass_at(probs, uniforms), probs.isfinite().all(-1)
        best = self.before_greedy.shape(logits, history).max(-1)
        probs = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device).scatter_(
            1, best.indices[:, None], 1.0
        )
        return probs, best.indices, best.values.isfinite()

    @cached_property
    def greedy(self) -> bool:
        """Whether temperature 0 is in the pipeline; what comes after it changes nothing."""
        return Temperature(0) in self.pipeline

    @cached_property
    def before_greedy(self) -> "Sampler":
        """What shapes the logits before temperature 0 takes the largest of them."""
        return Sampler(self.pipeline[: self.pipeline.index(Temperature(0))])

    @property
    def min_new_tokens(self) -> int:
        """Tokens that a row must write before it may end."""
        return max((t.n for t in self.pipeline if isinstance(t, MinNewTokens)), default=0)

    def for_rows(self, rows: Sequence[int]) -> "Sampler":
        """The sampler for the batch whose row i was row `rows[i]`."""
        return Sampler([t.for_rows(rows) if isinstance(t, MinNewTokens) else t for t in self.pipeline])

    def __str__(self) -> str:
        return describe(self.pipeline)

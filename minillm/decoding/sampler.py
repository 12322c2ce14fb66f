"""Sampling: transform the logits by an ordered list of pure functions, then draw one token.

The order is fixed: bans, penalties, temperature, top-k, top-p, min-p, typical, draw. Each step gets the renormalized
distribution of the step before, so the order matters: temperature before top-p changes the mass that top-p counts. The
draw inverts the cumulative distribution in float64: it takes the first token whose cumulative probability exceeds u,
with u uniform on [0, 1). Each row has its own generator, and uses one u a draw, so a row draws the same tokens alone
and in any batch.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
from minillm.decoding.transforms import GREEDY, MinP, Temperature, TopK, TopP, Transform, Typical, rows_of


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling settings; the defaults draw from the model's own distribution."""

    temperature: Annotated[float, AtLeast(0)] = 1.0  # divides the logits; below 1 sharper, 0 greedy
    top_k: Count = 0  # keep the k most probable tokens; 0: off, 1: greedy
    top_p: Fraction = 1.0  # keep the fewest tokens whose mass reaches p; 1: off, 0: greedy
    min_p: Fraction = 0.0  # keep tokens at least this fraction as probable as the best; 0: off
    typical_p: Fraction = 1.0  # keep the most typical tokens whose mass reaches p; 1: off
    repetition_penalty: Annotated[float, Above(0)] = 1.0  # divides the logits of seen tokens, prompt included; 1: off
    presence_penalty: float = 0.0  # subtracted from the logit of each seen token; 0: off
    frequency_penalty: float = 0.0  # subtracted from a token's logit for each time it was seen; 0: off
    no_repeat_ngram: Count = 0  # never write the same n tokens twice; 0: off
    min_new_tokens: Count = 0  # the text may not end before this many new tokens; 0: off
    banned_tokens: tuple[int, ...] = ()  # ids that are never drawn

    def __post_init__(self) -> None:
        validate(self)


PIPELINE: dict[str, Callable[..., Transform]] = {  # setting -> its transform, in the order in which they are applied
    "banned_tokens": BannedTokens,
    "min_new_tokens": MinNewTokens,
    "no_repeat_ngram": NoRepeatNGram,
    "repetition_penalty": RepetitionPenalty,
    "presence_penalty": PresencePenalty,
    "frequency_penalty": FrequencyPenalty,
    "temperature": Temperature,
    "top_k": TopK,
    "top_p": TopP,
    "min_p": MinP,
    "typical_p": Typical,
}


def build_pipeline(
    sampling: SamplingConfig,
    *,
    vocab_size: int | None = None,
    end_id: int | None = None,
    stop_ids: Collection[int] = (),
    prompt_lengths: Sequence[int] = (),
) -> list[Transform]:
    """The transforms of a config, in order; a setting at its default is off and has no transform.

    vocab_size: ids at or above it are never drawn (the tokenizer's size, if the model's is larger). end_id,
    the ids that end a text as END does (stop_ids) and prompt_lengths (one a row, or one for all) are needed for
    min_new_tokens. Raises ValueError if they are missing.

    >>> describe(build_pipeline(SamplingConfig(temperature=0.7, top_p=0.9), vocab_size=50257))
    'ids below 50257 -> temperature 0.7 -> top-p 0.9 -> draw'
    """
    if sampling.min_new_tokens and end_id is None:
        raise ValueError(
            f"min_new_tokens = {sampling.min_new_tokens}: expected 0, because no token ends the text; give end_id"
        )
    if sampling.min_new_tokens and not prompt_lengths:
        raise ValueError(
            f"min_new_tokens = {sampling.min_new_tokens}: expected the rows' prompt_lengths to count from; give them"
        )
    _refuse_half_an_addition()
    ends = {"end_id": end_id, "stop_ids": tuple(stop_ids), "prompt_lengths": tuple(prompt_lengths)}
    makers = PIPELINE | {"min_new_tokens": partial(MinNewTokens, **ends)}
    given = {
        name: getattr(sampling, name) for name in makers if getattr(sampling, name) != getattr(SamplingConfig, name)
    }
    first = [] if vocab_size is None else [OnlyFirst(vocab_size)]
    return [*first, *(makers[name](value) for name, value in given.items())]


def _refuse_half_an_addition() -> None:
    """Check a newly added setting: raise ValueError for one without a transform, or a transform without a setting."""
    settings = {field.name for field in dataclasses.fields(SamplingConfig)}
    for name in settings - PIPELINE.keys():
        raise ValueError(f"sampling.{name}: expected a transform; add it to PIPELINE in minillm/decoding/sampler.py")
    for name in PIPELINE.keys() - settings:
        raise ValueError(
            f'PIPELINE["{name}"]: expected a setting of this name; '
            "add it to SamplingConfig in minillm/decoding/sampler.py"
        )


def describe(pipeline: Sequence[Transform]) -> str:
    """The pipeline as text: "temperature 0.7 -> top-k 50 -> draw"."""
    return " -> ".join([*map(str, pipeline), "draw"])


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each row: a seed draws the same numbers on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniforms(generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """One number in [0, 1) from each generator, float64 (B,)."""
    return torch.stack(
        [torch.rand((), generator=g, dtype=torch.float64, device=g.device).to(device) for g in generators]
    )


def invert(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by inversion: the first tokens (B,) whose cumulative probability under logits (B, V) exceeds uniforms (B,).

    Raises ValueError for a row without a distribution: every token banned, or logits that are not finite.

    >>> invert(torch.tensor([0.5, 0.2, 0.3]).log()[None], torch.tensor([0.6]))  # token 1 owns [0.5, 0.7)
    tensor([1])
    """
    probs = logits.double().softmax(-1)
    refuse_impossible(possible_in(probs))
    return pass_at(probs, uniforms)


def possible_in(probs: Tensor) -> Tensor:
    """Whether each row of probabilities (B, V) is a distribution, (B,) bool; False if every token was banned."""
    return probs.sum(-1) > 0  # subtle: one NaN makes the sum NaN, which is not above 0


def refuse_impossible(possible: Tensor) -> None:
    """Raise ValueError if any row of (B,) bool is False: it has no token to draw."""
    if not all(possible.tolist()):
        raise ValueError(
            "logits: expected a finite one in every row; the model diverged, "
            "or every token is banned (loosen the penalties)"
        )


def pass_at(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The first tokens (B,) whose cumulative probs (B, V), float64, exceed uniforms (B,); any if none is possible."""
    possible, passed = probs > 0, probs.cumsum(-1) > uniforms[:, None]
    # subtle: the last sum may be below 1, and a parallel cumsum may rise at a zero. So the last possible token always
    # counts as passed, and an impossible token never does.
    last = probs.shape[1] - 1 - possible.flip(-1).byte().argmax(-1, keepdim=True)
    return (passed.scatter(-1, last, True) & possible).byte().argmax(-1)


@dataclass(frozen=True)
class Sampler:
    """Transforms the logits, then draws. `str` gives the pipeline."""

    pipeline: Sequence[Transform] = ()

    def shape(self, logits: Tensor, history: Tensor) -> Tensor:
        """The logits (B, V) of the distribution to draw from, in float32 at least; history (B, T) may hold EMPTY."""
        logits = rows_of(logits, history)
        for transform in self.pipeline:
            logits = transform(logits, history)
        return logits

    def distribution(self, logits: Tensor, history: Tensor) -> Tensor:
        """The probabilities (B, V) to draw from, float64; NaN in rows without a possible token."""
        return self.shape(logits, history).double().softmax(-1)

    def __call__(self, logits: Tensor, history: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """One token a row, (B,) long; each row draws one uniform number from its own generator, a greedy sampler none.

        Raises ValueError for a row without a distribution: every token banned, or logits that are not finite.
        """
        if len(generators) != len(logits):
            raise ValueError(f"{len(generators)} generators: expected one for each of the {len(logits)} rows")
        numbers = None if self.greedy else uniforms(generators, logits.device)
        tokens, possible = self.choose(logits, history, numbers)
        refuse_impossible(possible)
        return tokens

    def choose(self, logits: Tensor, history: Tensor, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
        """The token of each row by inversion at `uniforms` (B,); and whether any token is possible, (B,) bool.

        A greedy sampler uses no uniforms: it takes the largest logit, without computing a distribution.
        """
        if self.greedy:
            best = self._before_greedy.shape(logits, history).max(-1)
            return best.indices, best.values.abs() < math.inf  # subtle: False for NaN too
        probs = self.distribution(logits, history)
        return pass_at(probs, uniforms), possible_in(probs)

    def guess(self, logits: Tensor, history: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The distribution (B, V), float64, then the results of `choose`."""
        if self.greedy:
            tokens, possible = self.choose(logits, history, None)
            certain = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
            return certain.scatter_(1, tokens[:, None], 1.0), tokens, possible
        probs = self.distribution(logits, history)
        return probs, pass_at(probs, uniforms), possible_in(probs)

    @cached_property
    def decisive(self) -> Transform | None:
        """The first transform that leaves only the most probable token; later ones change nothing."""
        return next((transform for transform in self.pipeline if transform in GREEDY), None)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.decisive is not None

    @cached_property
    def _before_greedy(self) -> "Sampler":
        """The transforms that can change which logit is the largest."""
        return Sampler(self.pipeline[: self.pipeline.index(self.decisive)])

    @property
    def min_new_tokens(self) -> int:
        """Number of tokens that a row must write before it may end."""
        return max((t.n for t in self.pipeline if isinstance(t, MinNewTokens)), default=0)

    def for_rows(self, rows: Sequence[int]) -> "Sampler":
        """The sampler for a reordered batch: row i is the former row `rows[i]`."""
        return Sampler([t.for_rows(rows) if isinstance(t, MinNewTokens) else t for t in self.pipeline])

    def __str__(self) -> str:
        return describe(self.pipeline)

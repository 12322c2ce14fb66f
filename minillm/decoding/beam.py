"""Beam search: keep the N most probable unfinished texts (hypotheses) at every step, to find the most probable text.

    score = logprob / length^alpha          logprob: sum over the new tokens, END included; length: number of those

Greedy decoding takes the best next token and may miss the best text. Beam search extends N hypotheses side by side and
considers the 2N best of their N V continuations: at most N of those end, so at least N can be extended. An ended text
among the N best is stored with its score and not extended. alpha = 0 compares sums, which favors short texts; 1
compares means; larger values favor long texts. The prompt counts neither in logprob nor in length, as in transformers
5. Scores are the model's own log probabilities. A sampler can only forbid tokens; they are skipped, and the others are
not renormalized. Lowerre 1976; length penalty: Wu et al. 2016; when to stop: Kasai et al. 2022. Read before:
`generate`; `minillm/lessons/beam_search.py` is the same algorithm without state and batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from minillm.config.fields import Between, Count, Positive, validate
from minillm.decoding.generate import begin, check
from minillm.decoding.rows import Reason, pad_left
from minillm.decoding.sampler import Sampler
from minillm.decoding.transforms import BANNED
from minillm.models.language_model import LanguageModel, State, device_of, evaluating

FORBIDDING = ("banned_tokens", "min_new_tokens", "no_repeat_ngram")  # sampling settings that beam search supports


@dataclass(frozen=True)
class BeamConfig:
    """Settings of beam search."""

    beams: Count = 0  # hypotheses that are kept at each step; 0: no beam search, 1: greedy
    length_penalty: Annotated[float, Between(-10, 10)] = (
        1.0  # alpha of logprob / length^alpha: 0 favors short texts, larger values favor longer ones
    )
    early_stopping: Literal["always", "likely", "never"] = (
        "likely"  # with --beams texts ended, stop: always; if no unfinished text scores better; or only if none can
    )
    num_return: Positive = 1  # texts to return, the best first

    def __post_init__(self) -> None:
        validate(self)
        if self.num_return > max(self.beams, 1):
            raise ValueError(
                f"num_return = {self.num_return}: expected at most beams = {self.beams}; return fewer or keep more"
            )


class Hypothesis(NamedTuple):
    """A completion that beam search found."""

    tokens: list[int]  # the new tokens, without END
    logprob: float  # nats, of the new tokens and of END if it was written
    score: float  # logprob / length^alpha
    reason: Reason  # END | max_new_tokens | the model's context is full

    @property
    def length(self) -> int:
        """The length that normalizes the score: the number of new tokens, END included."""
        return len(self.tokens) + (self.reason == "end")


@torch.inference_mode()
def beam_search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    config: BeamConfig,
    sampler: Sampler = Sampler(),  # noqa: B008 (frozen)
    *,
    max_new_tokens: int,
    end_id: int | None = None,
    stop_ids: frozenset[int] = frozenset(),
    use_cache: bool = True,
    start: Callable[[int], State] | None = None,
) -> list[list[Hypothesis]]:
    """Search for each prompt: at most `config.num_return` hypotheses, the best first.

    Fewer are returned if fewer texts are possible. Ties: first the hypothesis that ended earlier, then the one with the
    better prefix, then the one with the lower last id. sampler: tokens to which it gives probability 0 are not written;
    it has no other effect. stop_ids: further tokens that end a text as END does. Other parameters and errors: see
    `generate.stream`.
    """
    if not config.beams:
        raise ValueError("beams = 0: expected a number >= 1; keep 4, for example")
    check(model, prompts, sampler, max_new_tokens, None, end_id, None)
    if start is not None and not use_cache:
        raise ValueError("start: expected none with use_cache=False, which keeps no state; drop one of the two")
    if not prompts:
        return []
    with evaluating(model):
        state, limits = begin(model, prompts, max_new_tokens, (start or model.start) if use_cache else None)
        searches = [_Search(config, n_most, reason, stop_ids | {end_id}) for n_most, reason in limits]
        rows = [row for row, (n_most, _) in enumerate(limits) if n_most]  # prompts in the batch
        if rows:
            if state is not None and len(rows) < len(prompts):
                state.reorder(torch.tensor(rows, device=state.lengths.device))
            _search(model, prompts, searches, rows, sampler, state)
    return [search.ended[: config.num_return] for search in searches]


class _Search:
    """The search for one prompt: its N best ended hypotheses, and the rule for when to stop."""

    def __init__(self, config: BeamConfig, n_most: int, limit_reason: Reason, end_ids: frozenset[int | None]):
        self.config, self.n_most, self.limit_reason, self.end_ids = config, n_most, limit_reason, end_ids
        self.ended = [] if n_most else [Hypothesis([], 0.0, 0.0, limit_reason)]

    def score(self, logprob: float, length: int) -> float:
        return logprob / length**self.config.length_penalty

    def divide(self, found: list[tuple[float, int, int]], n_new: int, texts: Tensor) -> list[tuple[float, int, int]]:
        """Store the candidates that end; return those to extend, or [] if the search is over.

        found: candidates (logprob, row of the prefix in `texts`, token), the best first. n_new: new tokens of each.
        """
        if math.isnan(found[0][0]):
            raise ValueError("logits: expected finite ones; the model diverged")
        unfinished: list[tuple[float, int, int]] = []
        for rank, (logprob, prefix, token) in enumerate(found):
            if logprob == -math.inf:
                break
            ends = token in self.end_ids
            if ends or n_new == self.n_most:
                if rank < self.config.beams:
                    tokens = texts[prefix].tolist() + ([] if ends else [token])
                    reason = "end" if ends else self.limit_reason
                    self.ended.append(Hypothesis(tokens, logprob, self.score(logprob, n_new), reason))
            elif len(unfinished) < self.config.beams:
                unfinished.append((logprob, prefix, token))
        if not unfinished and not self.ended:
            raise ValueError("every token is banned: expected at least one allowed token; ban fewer")
        self.ended = sorted(self.ended, key=lambda hypothesis: -hypothesis.score)[: self.config.beams]
        return [] if self._is_over(unfinished, n_new) else unfinished

    def _is_over(self, unfinished: list[tuple[float, int, int]], n_new: int) -> bool:
        """Whether no hypothesis is unfinished, or N have ended and `early_stopping` says to stop."""
        if not unfinished or len(self.ended) < self.config.beams:
            return not unfinished
        # subtle: a logprob only falls, so for alpha > 0 the best score to hope for is this logprob at the full length
        hopeful = self.config.early_stopping == "never" and self.config.length_penalty > 0
        best = self.score(unfinished[0][0], self.n_most if hopeful else n_new)
        return self.config.early_stopping == "always" or best <= self.ended[-1].score


def _search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    searches: list[_Search],
    rows: list[int],
    sampler: Sampler,
    state: State | None,
) -> None:
    """Search for these prompts until every search is over. A prompt has one row of the batch at first, then N rows."""
    n_beams = searches[0].config.beams
    history, width = pad_left([prompts[row] for row in rows], room=max(search.n_most for search in searches))
    history = history.to(device_of(model))
    # (B, N) of the hypotheses; a single column at first
    logprobs = torch.zeros(len(rows), 1, dtype=torch.float64, device=history.device)
    read, began, n_new = 0, width, 0  # read: columns that the state has read; began: column where the new tokens begin
    while rows:
        n_new += 1
        logits, state = model(history[:, read:width], state)
        read = 0 if state is None else width
        values, places = best(_continuations(logits[:, -1], logprobs, history[:, :width], sampler, rows), 2 * n_beams)
        N, V, texts = logprobs.shape[1], logits.shape[-1], history[:, began:width]
        staying, kept = [], []  # prompts, and for each N times (logprob, row, token)
        for i, (row, *candidates) in enumerate(
            zip(rows, *torch.stack([values, places.double()]).tolist(), strict=True)
        ):
            found = [(value, i * N + int(place) // V, int(place) % V) for value, place in zip(*candidates, strict=True)]
            unfinished = searches[row].divide(found, n_new, texts)
            if unfinished:
                staying.append(row)
                # fill up to N rows; a hypothesis of logprob -inf never wins
                kept += unfinished + [(-math.inf, *unfinished[-1][1:])] * (n_beams - len(unfinished))
        rows = staying
        if rows:
            values, parents, tokens = torch.tensor(kept, dtype=torch.float64, device=history.device).T
            parents, logprobs = parents.long(), values.view(len(rows), n_beams)
            before, history = history, history.index_select(0, parents)
            if state is not None:
                state.reorder(parents, _agreement(before[:, :width], history[:, :width]))
            history[:, width] = tokens
            width += 1


def _continuations(logits: Tensor, logprobs: Tensor, history: Tensor, sampler: Sampler, rows: list[int]) -> Tensor:
    """The logprob of every hypothesis extended by every token, (B, N V) float64; -inf for forbidden tokens."""
    (B, N), V = logprobs.shape, logits.shape[1]
    after = logits.double().log_softmax(-1)  # (B N, V)
    if sampler.pipeline:
        shaped = sampler.for_rows([row for row in rows for _ in range(N)]).shape(logits, history)
        after = after.masked_fill(shaped == BANNED, BANNED)
    return (after.view(B, N, V) + logprobs[:, :, None]).view(B, N * V)


def _agreement(before: Tensor, after: Tensor) -> int:
    """The number of leading columns in which (B, T) and (B', T) are equal; 0 if the number of rows has changed."""
    if len(before) != len(after):
        return 0
    differ = (before != after).any(0)  # (T,)
    return int(differ.byte().argmax()) if bool(differ.any()) else len(differ)


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of scores (B, M), or all if M < k, and their indices, in order. Ties: the lower index first."""
    values, places = scores.topk(min(k + 1, scores.shape[1]))
    tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -math.inf)
    if bool(tied.any()):  # topk promises no order among equal values
        values, places = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], places[:, :k]

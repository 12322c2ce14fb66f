"""Beam search: of all texts, look for the most probable ones, and keep the N best beginnings at every step.

    score = logprob / length^alpha          logprob: the sum over the new tokens, END included, and length: how many those are

Greedy takes the best next token and may miss the best text; N hypotheses go on side by side, and of their N V
continuations the 2N best are looked at: at most N of them end, so N at least can go on. One that ends among the N best
is kept apart, with its score, and is never continued. alpha 0 compares sums, which favors short texts; 1 compares
means; more favors long ones. The prompt counts neither in logprob nor in length, as in transformers 5. Scores are the
model's own log probabilities: a sampler may forbid tokens, which are skipped and not renormalized, and nothing else.
Lowerre 1976; length penalty: Wu et al. 2016; when to stop: Kasai et al. 2022. Read `generate` before;
`minillm/lessons/beam_search.py` is the same without state and batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from minillm.config.fields import Between, Count, Positive, validate
from minillm.decoding.generate import begin, check
from minillm.decoding.padding import pad_left
from minillm.decoding.rows import Reason
from minillm.decoding.sampler import Sampler
from minillm.decoding.transforms import BANNED
from minillm.models.evaluating import evaluating
from minillm.models.language_model import LanguageModel, State, device_of

FORBIDDING = ("banned_tokens", "min_new_tokens", "no_repeat_ngram")  # the sampling settings that a search can obey


@dataclass(frozen=True)
class BeamConfig:
    """Beam search, where it is asked for."""

    beams: Count = 0  # beginnings that are kept at each step; 0: no beam search, 1: greedy
    length_penalty: Annotated[float, Between(-10, 10)] = (
        1.0  # alpha of logprob / length^alpha: 0 favors short texts, more longer ones
    )
    early_stopping: Literal["always", "likely", "never"] = (
        "likely"  # when as many ended: stop; stop if no other is better; if none can be
    )
    num_return: Positive = 1  # texts to return, the best first

    def __post_init__(self) -> None:
        validate(self)
        if self.num_return > max(self.beams, 1):
            raise ValueError(
                f"num_return = {self.num_return}: expected at most beams = {self.beams}; return fewer or keep more"
            )


class Hypothesis(NamedTuple):
    """A text that beam search found."""

    tokens: list[int]  # the new ones, END not among them
    logprob: float  # nats, of the new tokens and of END where it was written
    score: float  # logprob / length^alpha
    reason: Reason  # END | max_new_tokens | the model's context is full

    @property
    def length(self) -> int:
        """Length that normalizes the score: the tokens that were written, END included."""
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
    use_cache: bool = True,
    start: Callable[[int], State] | None = None,
) -> list[list[Hypothesis]]:
    """Search for each prompt: at most `config.num_return` hypotheses, the best first.

    Fewer come back where fewer texts are possible. Of hypotheses that tie, one that ended earlier, whose beginning was
    better or whose last id is lower comes first. sampler: a token that it gives probability 0 is not written; what it
    thinks of others does not count. The other parameters and errors are those of `generate.stream`.
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
        searches = [_Search(config, n_most, reason, end_id) for n_most, reason in limits]
        rows = [row for row, (n_most, _) in enumerate(limits) if n_most]  # those in the batch
        if rows:
            if state is not None and len(rows) < len(prompts):
                state.reorder(torch.tensor(rows, device=state.lengths.device))
            _search(model, prompts, searches, rows, sampler, state)
    return [search.ended[: config.num_return] for search in searches]


class _Search:
    """The hypotheses of one prompt that have ended, the N best of them, and the rule by which it is over."""

    def __init__(self, config: BeamConfig, n_most: int, limit_reason: Reason, end_id: int | None):
        self.config, self.n_most, self.limit_reason, self.end_id = config, n_most, limit_reason, end_id
        self.ended = [] if n_most else [Hypothesis([], 0.0, 0.0, limit_reason)]

    def score(self, logprob: float, length: int) -> float:
        return logprob / length**self.config.length_penalty

    def divide(self, found: list[tuple[float, int, int]], n_new: int, texts: Tensor) -> list[tuple[float, int, int]]:
        """Of candidates (logprob, beginning, token), the best first, keep those that end; those that go on, none if it is over."""
        if math.isnan(found[0][0]):
            raise ValueError("logits: expected finite ones; the model diverged")
        going: list[tuple[float, int, int]] = []
        for rank, (logprob, beginning, token) in enumerate(found):
            if logprob == -math.inf:
                break
            if token == self.end_id or n_new == self.n_most:
                if rank < self.config.beams:
                    ends = token == self.end_id
                    tokens, reason = (
                        texts[beginning].tolist() + ([] if ends else [token]),
                        "end" if ends else self.limit_reason,
                    )
                    self.ended.append(Hypothesis(tokens, logprob, self.score(logprob, n_new), reason))
            elif len(going) < self.config.beams:
                going.append((logprob, beginning, token))
        if not going and not self.ended:
            raise ValueError(
                "every token is banned: expected one at least that may be written; loosen what forbids them"
            )
        self.ended = sorted(self.ended, key=lambda hypothesis: -hypothesis.score)[: self.config.beams]
        return [] if self._is_over(going, n_new) else going

    def _is_over(self, going: list[tuple[float, int, int]], n_new: int) -> bool:
        """Whether nothing goes on, or N have ended and what goes on is given up."""
        if not going or len(self.ended) < self.config.beams:
            return not going
        # subtle: a log probability only falls, so what it may become is largest at the length that divides it best
        hopeful = self.config.early_stopping == "never" and self.config.length_penalty > 0
        best = self.score(going[0][0], self.n_most if hopeful else n_new)
        return self.config.early_stopping == "always" or best <= self.ended[-1].score


def _search(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    searches: list[_Search],
    rows: list[int],
    sampler: Sampler,
    state: State | None,
) -> None:
    """Search for all of those rows until every search is over. A prompt is read once, and then has N rows of the batch."""
    n_beams = searches[0].config.beams
    history, width = pad_left([prompts[row] for row in rows], room=max(search.n_most for search in searches))
    history = history.to(device_of(model))
    logprobs = torch.zeros(
        len(rows), 1, dtype=torch.float64, device=history.device
    )  # (B, N) of the hypotheses, but 1 column at first
    read, began, n_new = 0, width, 0  # columns of history: those that the state has read, and where all prompts end
    while rows:
        n_new += 1
        logits, state = model(history[:, read:width], state)
        read = 0 if state is None else width
        values, places = best(_continuations(logits[:, -1], logprobs, history[:, :width], sampler, rows), 2 * n_beams)
        N, V, texts = logprobs.shape[1], logits.shape[-1], history[:, began:width]
        staying, kept = [], []  # rows, and of each N (logprob, row of the batch, token)
        for i, (row, *candidates) in enumerate(
            zip(rows, *torch.stack([values, places.double()]).tolist(), strict=True)
        ):
            found = [(value, i * N + int(place) // V, int(place) % V) for value, place in zip(*candidates, strict=True)]
            going = searches[row].divide(found, n_new, texts)
            if going:
                staying.append(row)
                kept += going + [(-math.inf, *going[-1][1:])] * (
                    n_beams - len(going)
                )  # rows without a hypothesis, which never win
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
    """The log probability of every hypothesis with every token after it, (B, N V) float64; -inf where that is forbidden."""
    (B, N), V = logprobs.shape, logits.shape[1]
    after = logits.double().log_softmax(-1)  # (B N, V)
    if sampler.pipeline:
        shaped = sampler.for_rows([row for row in rows for _ in range(N)]).shape(logits, history)
        after = after.masked_fill(shaped == BANNED, BANNED)
    return (after.view(B, N, V) + logprobs[:, :, None]).view(B, N * V)


def _agreement(before: Tensor, after: Tensor) -> int:
    """In how many of the first columns (B, T) and (B', T) are the same. None count if a text has begun or left, whose rows move on."""
    if len(before) != len(after):
        return 0
    differ = (before != after).any(0)  # (T,)
    return int(differ.byte().argmax()) if bool(differ.any()) else len(differ)


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of scores (B, M) and their places, in order; all where M < k. Of those that tie, the ones with the lower place."""
    values, places = scores.topk(min(k + 1, scores.shape[1]))
    if bool(
        ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -math.inf)).any()
    ):  # topk promises no order among equals
        values, places = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], places[:, :k]

"""Speculative decoding: a cheap drafter proposes some tokens, and the target model checks them all in one call.

    accept x with probability min(1, p(x) / q(x));   draw from max(0, p - q) / sum at the first rejection, else from p

The output has exactly the target's distribution p, whatever q is: p = min(p, q) + max(0, p - q), and the mass of the
second part equals the probability of rejection. So a bad draft costs time but changes no probability. If each drafted
token is accepted with probability a, a call with k drafted tokens gives (1 - a^(k+1)) / (1 - a) tokens and costs
1 + c k (Leviathan et al. 2023; Chen et al. 2023). Read before: `generate`, `drafts`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.draft_length import MOST, Lengths, Tally, lengths_for
from minillm.decoding.drafts import Draft, Drafter, Drafting
from minillm.decoding.generate import check
from minillm.decoding.reader import Reader
from minillm.decoding.rows import Completion, Event, Limit, Rows, collect, limit_of, logprobs_of, pad_right
from minillm.decoding.sampler import Sampler, invert
from minillm.decoding.stopping import Stop
from minillm.models.language_model import LanguageModel, State, device_of, evaluating


def verify(p: Tensor, draft: Draft, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Accept or reject: the number of accepted tokens of each row, (B,), and the token that the target adds, (B,) long.

    p: (B, K + 1, V) float64, the target's distribution at each drafted place and after the last. uniforms: (B, K + 1),
    K for acceptance and one for the draw. Raises ValueError for a row without a distribution at the place of its draw.
    """
    tokens, q = draft
    p_of, q_of = (x[:, : tokens.shape[1]].gather(2, tokens.clamp(min=0)[..., None]).squeeze(2) for x in (p, q))
    accepted = (tokens >= 0) & (uniforms[:, :-1] * q_of < p_of)
    n = accepted.long().cumprod(1).sum(1)
    rows = torch.arange(len(p), device=p.device)
    p, q = p[rows, n], F.pad(q, (0, 0, 0, 1))[rows, n]  # subtle: q is 0 after the draft, so the residual there is p
    return n, invert(left_over(p, q).log(), uniforms[:, -1])


def left_over(p: Tensor, q: Tensor) -> Tensor:
    """The residual distribution max(0, p - q) (..., V), not normalized; p itself if p and q are equal."""
    left = (p - q).clamp(min=0)
    return left.where(left.sum(-1, keepdim=True) > 0, p)  # else p and q differ by rounding alone


class Verification(NamedTuple):
    """One call of the target for B rows: its distributions and its verdict on the draft."""

    logits: Tensor  # (B, K + 1, V), of the target
    history: Tensor  # (B, K + 1, S), the tokens before each place
    p: Tensor  # (B, K + 1, V) float64, the distributions after the sampler's transforms
    draft: Draft
    uniforms: Tensor  # (B, K + 1), see `verify`
    n_accepted: Tensor  # (B,)
    last: Tensor  # (B,), the token that the target adds


def unwatched(call: Verification) -> None:
    """Default callback; does nothing."""


def speculate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], sampler: Sampler, *, drafter: Drafter, **how
) -> list[Completion]:
    """The completion of every prompt, in order; parameters and errors as `stream`."""
    return collect(len(prompts), stream(model, prompts, sampler, drafter=drafter, **how))


def stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    *,
    drafter: Drafter,
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
    end_id: int | None = None,
    stops: Sequence[Stop] | None = None,
    use_cache: bool = True,
    start: Callable[[int], State] | None = None,
    n_draft: int = 0,
    tallies: Sequence[Tally] | None = None,
    watch: Callable[[Verification], None] = unwatched,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[list[Event]]:
    """Generate from the same distribution as `generate.stream`; yields one list of events for each call of the target.

    n_draft: tokens to draft at once; 0: chosen at each step by `draft_length`. tallies: new ones, one a row, which the
    call fills in. watch: callback for every call of the target. clock: returns seconds, to measure the cost of greedy
    drafting; no token depends on it.
    Raises ValueError, before anything is read, for arguments that `generate.stream` does not accept, a drafter of
    another vocabulary or a shorter context, a state without rollback (see `Reader`), and use_cache=False, which keeps
    no state to roll back.
    """
    check(model, prompts, sampler, max_new_tokens, generators, end_id, stops)
    if not use_cache:
        raise ValueError(
            "use_cache = false: expected true with a draft, since rejected tokens are taken back from a state; "
            "drop one of the two"
        )
    if not 0 <= n_draft <= MOST:
        raise ValueError(f"n_draft = {n_draft}: expected 1 ... {MOST}, or 0 to choose it at each step")
    if drafter.vocab_size != model.vocab_size:
        raise ValueError(
            f"draft of vocab_size = {drafter.vocab_size}: expected {model.vocab_size}, as the target has; "
            "take one with the same tokenizer"
        )
    limits = [limit_of(model.context_length, len(prompt), max_new_tokens) for prompt in prompts]
    longest = max((len(prompt) + n for prompt, (n, _) in zip(prompts, limits, strict=True)), default=0)
    if drafter.context_length is not None and longest > drafter.context_length:
        raise ValueError(
            f"draft of context_length = {drafter.context_length}: expected at least {longest}, "
            "a prompt and its new tokens; lower max_new_tokens, shorten the prompt, or take another draft"
        )
    tallies = [Tally() for _ in prompts] if tallies is None else tallies
    if list(tallies) != [Tally()] * len(prompts):
        raise ValueError(f"{len(tallies)} tallies: expected a new one for each of the {len(prompts)} prompts")
    how_many, make_state = lengths_for(n_draft, drafter.cost, sampler.greedy), start or model.start
    return _stream(
        model, prompts, sampler, limits, generators, end_id, stops, drafter, make_state, how_many, tallies, watch, clock
    )


@torch.inference_mode()
def _stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    limits: Sequence[Limit],
    generators: Sequence[torch.Generator],
    end_id: int | None,
    stops: Sequence[Stop] | None,
    drafter: Drafter,
    make_state: Callable[[int], State],
    how_many: Lengths,
    tallies: Sequence[Tally],
    watch: Callable[[Verification], None],
    clock: Callable[[], float],
) -> Iterator[list[Event]]:
    if not prompts:
        return
    with evaluating(model), drafter.begin(len(prompts)) as drafting:
        target = Reader(model, make_state(len(prompts)))
        rows = Rows(limits, sampler, generators, end_id, stops, device_of(model))
        if rows.full:
            yield rows.full
        rows.retire(target, drafting)
        if not rows:
            return
        work, timed = _Speculation(rows, prompts, target, drafting, tallies, watch), False
        while rows:
            began = clock()
            wanted = work.wanted(how_many)
            events = work.call(wanted)
            if timed:
                how_many.told(max(wanted), clock() - began)
            timed = True  # the first call is not timed: it also reads the prompts
            yield events
            if work.retire():
                how_many.restart()


class _Call(NamedTuple):
    """The new tokens of B rows from one call of the target."""

    new: Tensor  # (B, J) long, EMPTY after the last one of a row
    logits: Tensor  # (B, J, V), of the target at each new token
    n_drafted: list[int]
    n_accepted: list[int]


class _Speculation:
    """A batch of texts, with a target and a drafter that have read all but the last token of each."""

    def __init__(
        self,
        rows: Rows,
        prompts: Sequence[Sequence[int]],
        target: Reader,
        drafting: Drafting,
        tallies: Sequence[Tally],
        watch: Callable[[Verification], None],
    ):
        """`tallies`: one for each prompt, to be filled in. `watch`: callback for every call of the target."""
        self.rows, self.target, self.drafting, self.tallies, self.watch = rows, target, drafting, tallies, watch
        self.prompt_lengths = [len(prompt) for prompt in prompts]
        growing = [prompts[number] for number in rows.numbers]
        self.texts = pad_right(growing, room=max(n for n, _ in rows.limits) + MOST).to(rows.device)  # (B, S)
        self.lengths = torch.tensor([len(prompt) for prompt in growing], device=rows.device)  # (B,)

    def wanted(self, how_many: Lengths) -> list[int]:
        """The number of tokens to draft for each row: less than it may still write, since the call itself adds one."""
        rows = self.rows
        return [min(how_many.choose(self.tallies[number]), rows.room(number) - 1) for number in rows.numbers]

    def call(self, wanted: Sequence[int]) -> list[Event]:
        """Draft at most `wanted` tokens for each row, check them in one call of the target, and write the result."""
        n_text = max(self.prompt_lengths[number] + self.rows.n_new[number] for number in self.rows.numbers)
        text = self.texts[:, : n_text + max(wanted)]
        result = self._check(text, wanted) if any(wanted) or self.watch is not unwatched else self._plain(text)
        places = self.lengths[:, None] + torch.arange(result.new.shape[1], device=text.device)  # (B, J)
        self.texts.scatter_(1, places, result.new)
        self.lengths = self.lengths + (result.new >= 0).sum(1)
        events = self._judge(result)
        if any(wanted) and self.rows.growing:
            for reader in (self.target, self.drafting):
                reader.back(self.texts, self.lengths - 1)  # the last token is read by the next call
        return events

    def retire(self) -> bool:
        """Remove the ended rows from the batch; return whether there were any."""
        kept = self.rows.retire(self.target, self.drafting)
        if kept is not None:
            self.texts, self.lengths = self.texts[kept], self.lengths[kept]
        return kept is not None

    def _plain(self, text: Tensor) -> _Call:
        """One token for each row without a draft, as `generate` draws it."""
        logits, none = self.target.read(text, self.lengths), [0] * len(text)
        return _Call(self.rows.draw(logits[:, -1], text)[:, None], logits[:, -1:], none, none)

    def _check(self, text: Tensor, wanted: Sequence[int]) -> _Call:
        """Draft, write the draft into the text, and verify it by one call of the target."""
        K, sampler = max(wanted), self.rows.sampler
        uniforms = _uniforms(self.rows.generators, wanted).to(text.device)  # (B, 2K + 1)
        most, to_draft, to_verify = torch.tensor(wanted, device=text.device), uniforms[:, :K], uniforms[:, K:]
        draft = self.drafting.propose(text, self.lengths, most, sampler, to_draft).trimmed()
        K = draft.tokens.shape[1]
        to_verify = torch.cat([to_verify[:, :K], to_verify[:, -1:]], dim=1)
        places = self.lengths[:, None] + torch.arange(K + 1, device=text.device)  # (B, K + 1)
        text.scatter_(1, places[:, :-1], draft.tokens)
        logits = self.target.read(text, self.lengths, draft.tokens)  # (B, K + 1, V)
        history = _histories(text, places)
        p = _shaped(sampler, logits, history)
        n_accepted, last = verify(p, draft, to_verify)
        self.watch(Verification(logits, history, p, draft, to_verify, n_accepted, last))
        new = F.pad(draft.tokens, (0, 1)).scatter(1, n_accepted[:, None], last[:, None])
        new = new.where(places <= (self.lengths + n_accepted)[:, None], EMPTY)
        return _Call(new, logits, (draft.tokens >= 0).sum(1).tolist(), n_accepted.tolist())

    def _judge(self, result: _Call) -> list[Event]:
        """The events of the new tokens, row by row; tokens after the end of a text are dropped."""
        logprobs = logprobs_of(result.logits, result.new.clamp(min=0))
        pairs = torch.stack([result.new.double(), logprobs]).tolist()  # (2, B, J)
        events = []
        for row, tokens, nats, n_drafted, n_accepted in zip(
            self.rows.numbers, *pairs, result.n_drafted, result.n_accepted, strict=True
        ):
            self.tallies[row].add_call(n_drafted, n_accepted)
            for token, logprob in zip(tokens[: n_accepted + 1], nats, strict=False):
                self.tallies[row].n_tokens += 1
                events.append(self.rows.add(row, int(token), logprob))
                if events[-1].reason is not None:
                    break
        return events


def _histories(texts: Tensor, places: Tensor) -> Tensor:
    """The tokens before each of `places` (B, J) in texts (B, S): (B, J, S), EMPTY from the place on."""
    before = torch.arange(texts.shape[1], device=texts.device) < places[..., None]  # (B, J, S)
    return texts[:, None].where(before, EMPTY)


def _shaped(sampler: Sampler, logits: Tensor, history: Tensor) -> Tensor:
    """The target's distribution after the sampler's transforms, with the history of each place: (B, J, V) float64."""
    B, J, _ = logits.shape
    sampler = sampler.for_rows([row for row in range(B) for _ in range(J)])
    return sampler.distribution(logits.flatten(0, 1), history.flatten(0, 1)).unflatten(0, (B, J))


def _uniforms(generators: Sequence[torch.Generator], wanted: Sequence[int]) -> Tensor:
    """Uniform numbers, (B, 2K + 1): K to draft, K to accept, 1 to draw; a row uses as many as it would alone."""
    K = max(wanted)
    uniforms = torch.zeros(len(wanted), 2 * K + 1, dtype=torch.float64)
    for row, generator, k in zip(uniforms, generators, wanted, strict=True):
        drawn = torch.rand(2 * k + 1, generator=generator, dtype=torch.float64, device=generator.device)
        row[:k], row[K : K + k], row[-1] = drawn[:k], drawn[k : 2 * k], drawn[-1]
    return uniforms

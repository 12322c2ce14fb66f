"""Speculative decoding: a cheap draft guesses a few tokens, the target reads them all in one call, and keeps those it could have said.

    accept x with probability min(1, p(x) / q(x));   at the first rejection draw from max(0, p - q) / sum;   if all are accepted, from p

What is written has the distribution p of the target alone, whatever q is: p(x) = min(p, q) + max(0, p - q), and the second part has
the mass that is rejected. So a bad draft costs time and nothing else. With each guess accepted with probability a, a call gives
(1 - a^(k+1)) / (1 - a) tokens for k guesses, and costs 1 + c k (Leviathan et al. 2023; Chen et al. 2023). Read `generate` and `drafts`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.constants import EMPTY
from minillm.decoding.draft_length import MOST, Lengths, Tally, lengths_for
from minillm.decoding.drafts import Draft, Drafter
from minillm.decoding.generate import Completion, Event, Reason, check, collect, divide, judge, limit_of, pad_right
from minillm.decoding.reader import Reader
from minillm.decoding.sampler import Sampler, invert
from minillm.decoding.stopping import Stop
from minillm.models.evaluating import evaluating
from minillm.models.language_model import LanguageModel, State, device_of


def verify(p: Tensor, draft: Draft, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """How many drafted tokens each row keeps, and the one that the target adds: (B,) and (B,) long.

    p: (B, K + 1, V) float64, what the target says at each drafted place and after the last; uniforms: (B, K + 1), K to accept with and
    one to draw with. Raises ValueError for a row without a distribution at the place where it draws.
    """
    tokens, q = draft
    p_of, q_of = (x[:, : tokens.shape[1]].gather(2, tokens.clamp(min=0)[..., None]).squeeze(2) for x in (p, q))
    accepted = (tokens >= 0) & (uniforms[:, :-1] * q_of < p_of)
    n = accepted.long().cumprod(1).sum(1)
    rows = torch.arange(len(p), device=p.device)
    p, q = (
        p[rows, n],
        F.pad(q, (0, 0, 0, 1))[rows, n],
    )  # subtle: q is 0 behind the draft, so that p itself is left there
    return n, invert(left_over(p, q).log(), uniforms[:, -1])


def left_over(p: Tensor, q: Tensor) -> Tensor:
    """What a rejected draft has not had its chance to say: max(0, p - q) (..., V), not normalized; p where the two agree."""
    left = (p - q).clamp(min=0)
    return left.where(left.sum(-1, keepdim=True) > 0, p)  # where p and q differ by rounding alone


class Verification(NamedTuple):
    """A call of the target for B rows, and what it made of the draft."""

    logits: Tensor  # (B, K + 1, V), as the target gave them
    history: Tensor  # (B, K + 1, S), what each place sees
    p: Tensor  # (B, K + 1, V) float64, what they became
    draft: Draft
    uniforms: Tensor  # (B, K + 1), see `verify`
    n_accepted: Tensor  # (B,)
    last: Tensor  # (B,), the token that the target added


def unwatched(call: Verification) -> None:
    """Who watches most texts."""


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
    """Generate as `generate.stream` does, and from the same distribution, one list of events a call of the target.

    n_draft: tokens that are drafted at once; 0: as many as pay, by `draft_length`. tallies: new ones, one a row, to be filled in.
    watch: is told of every call. clock: tells the seconds by which greedy drafting is judged; no token depends on it.
    Raises ValueError, before anything is read, for what `generate.stream` refuses, for a drafter of another vocabulary or a shorter
    context, for a state that cannot go back (see `Reader`), and for use_cache=False, which leaves nothing to go back in.
    """
    check(model, prompts, sampler, max_new_tokens, generators, end_id, stops)
    if not use_cache:
        raise ValueError(
            "use_cache = false: expected true beside a draft, which is checked against a state; drop one of the two"
        )
    if not 0 <= n_draft <= MOST:
        raise ValueError(f"n_draft = {n_draft}: expected 1 ... {MOST}, or 0 for as many as pay")
    if drafter.vocab_size != model.vocab_size:
        raise ValueError(
            f"draft of vocab_size = {drafter.vocab_size}: expected {model.vocab_size}, that of the target; take one with the same tokenizer"
        )
    limits = [limit_of(model.context_length, len(prompt), max_new_tokens) for prompt in prompts]
    longest = max((len(prompt) + n for prompt, (n, _) in zip(prompts, limits, strict=True)), default=0)
    if drafter.context_length is not None and longest > drafter.context_length:
        raise ValueError(
            f"draft of context_length = {drafter.context_length}: expected at least {longest}, a prompt and its new tokens; "
            "lower max_new_tokens, shorten the prompt, or take another draft"
        )
    tallies = [Tally() for _ in prompts] if tallies is None else tallies
    if list(tallies) != [Tally()] * len(prompts):
        raise ValueError(f"{len(tallies)} tallies: expected a new one for each of the {len(prompts)} prompts")
    how_many, make_state = lengths_for(n_draft, drafter.cost, sampler.greedy), start or model.start
    return _stream(
        model, drafter, prompts, sampler, limits, generators, end_id, stops, make_state, how_many, tallies, watch, clock
    )


class _Round(NamedTuple):
    """Tokens that one call of the target adds to B rows."""

    new: Tensor  # (B, J) long, EMPTY behind each row's last
    logits: Tensor  # (B, J, V), from which each was drawn
    n_drafted: list[int]
    n_accepted: list[int]


@torch.inference_mode()
def _stream(
    model: LanguageModel,
    drafter: Drafter,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    limits: Sequence[tuple[int, Reason]],
    generators: Sequence[torch.Generator],
    end_id: int | None,
    stops: Sequence[Stop] | None,
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
        at_once, rows = divide(limits)  # rows: those in the batch
        if at_once:
            yield at_once
        if not rows:
            return
        sampler, device = sampler.for_rows(rows), device_of(model)
        texts = pad_right([prompts[row] for row in rows], room=max(n for n, _ in limits) + MOST).to(device)
        lengths = torch.tensor([len(prompts[row]) for row in rows], device=device)
        if at_once:
            for reader in (target, drafting):
                reader.reorder(torch.tensor(rows, device=device))
        prompt_read = False
        while rows:
            began = clock()
            # a call gives one token more than are drafted, and no more than may be written
            wanted = [min(how_many.choose(tallies[row]), limits[row][0] - tallies[row].n_tokens - 1) for row in rows]
            K, drawing = max(wanted), [generators[row] for row in rows]
            text = texts[:, : max(len(prompts[row]) + tallies[row].n_tokens for row in rows) + K]
            if K or watch is not unwatched:
                uniforms = _uniforms(drawing, wanted).to(device)  # (B, 2K + 1)
                draft = drafting.propose(text, lengths, torch.tensor(wanted, device=device), sampler, uniforms[:, :K])
                said = _check(target, sampler, text, lengths, draft, uniforms[:, K:], watch)
            else:
                said = _plain(target, sampler, text, lengths, drawing)
            texts.scatter_(1, lengths[:, None] + torch.arange(K + 1, device=device), said.new)
            lengths = lengths + (said.new >= 0).sum(1)
            logprobs = said.logits.double().log_softmax(-1).gather(2, said.new.clamp(min=0)[..., None]).squeeze(2)
            events, going = [], []
            told = zip(
                rows, said.n_drafted, said.n_accepted, *torch.stack([said.new.double(), logprobs]).tolist(), strict=True
            )
            for i, (row, drafted, accepted, tokens, nats) in enumerate(told):
                tally = tallies[row]
                tally.add_call(drafted, accepted)
                for token, logprob in zip(tokens[: accepted + 1], nats, strict=False):
                    tally.n_tokens += 1
                    events.append(
                        judge(row, int(token), logprob, end_id, stops and stops[row], limits[row], tally.n_tokens)
                    )
                    if events[-1].reason is not None:  # what was drafted behind it was never said
                        break
                else:
                    going.append(i)
            if going and K:
                for reader in (target, drafting):
                    reader.back(texts, lengths - 1)  # the last token is read with the next draft
            if prompt_read:
                how_many.told(K, clock() - began)
            prompt_read = True
            yield events
            if not going:
                return
            if len(going) < len(rows):
                kept = torch.tensor(going, device=device)
                rows, texts, lengths, sampler = (
                    [rows[i] for i in going],
                    texts[kept],
                    lengths[kept],
                    sampler.for_rows(going),
                )
                how_many.restart()
                for reader in (target, drafting):
                    reader.reorder(kept)


def _plain(
    target: Reader, sampler: Sampler, text: Tensor, lengths: Tensor, generators: Sequence[torch.Generator]
) -> _Round:
    """A token for each row, as `generate` draws it."""
    logits = target.read(text, lengths)
    return _Round(sampler(logits[:, -1], text, generators)[:, None], logits[:, -1:], [0] * len(text), [0] * len(text))


def _check(
    target: Reader,
    sampler: Sampler,
    text: Tensor,
    lengths: Tensor,
    draft: Draft,
    uniforms: Tensor,
    watch: Callable[[Verification], None],
) -> _Round:
    """What the target makes of a draft, with uniforms (B, K + 1) as `verify` takes them. Writes the draft into the text."""
    places = lengths[:, None] + torch.arange(uniforms.shape[1], device=text.device)  # (B, K + 1)
    text.scatter_(1, places[:, :-1], draft.tokens)
    logits = target.read(text, lengths, draft.tokens)  # (B, K + 1, V)
    history = _histories(text, places)
    p = _shaped(sampler, logits, history)
    n_accepted, last = verify(p, draft, uniforms)
    watch(Verification(logits, history, p, draft, uniforms, n_accepted, last))
    new = F.pad(draft.tokens, (0, 1)).scatter(1, n_accepted[:, None], last[:, None])
    new = new.where(places <= (lengths + n_accepted)[:, None], EMPTY)
    return _Round(new, logits, (draft.tokens >= 0).sum(1).tolist(), n_accepted.tolist())


def _histories(texts: Tensor, places: Tensor) -> Tensor:
    """What stands before each of `places` (B, J) of texts (B, S): (B, J, S), EMPTY behind it."""
    before = torch.arange(texts.shape[1], device=texts.device) < places[..., None]  # (B, J, S)
    return texts[:, None].where(before, EMPTY)


def _shaped(sampler: Sampler, logits: Tensor, history: Tensor) -> Tensor:
    """What the target says through the sampler where each of (B, J) places sees its own history: (B, J, V) float64."""
    B, J, _ = logits.shape
    sampler = sampler.for_rows([row for row in range(B) for _ in range(J)])
    return sampler.shape(logits.flatten(0, 1), history.flatten(0, 1)).double().softmax(-1).unflatten(0, (B, J))


def _uniforms(generators: Sequence[torch.Generator], wanted: Sequence[int]) -> Tensor:
    """K uniform numbers to draft with, K to accept with and one to draw with, (B, 2K + 1): each row draws as many as it wants alone."""
    K = max(wanted)
    uniforms = torch.zeros(len(wanted), 2 * K + 1, dtype=torch.float64)
    for row, generator, k in zip(uniforms, generators, wanted, strict=True):
        drawn = torch.rand(2 * k + 1, generator=generator, dtype=torch.float64, device=generator.device)
        row[:k], row[K : K + k], row[-1] = drawn[:k], drawn[k : 2 * k], drawn[-1]
    return uniforms

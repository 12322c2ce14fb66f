"""Continuous batching: requests join and leave the batch between two steps, and each step serves all running requests.

A step calls the model once for all jobs that read a single token, (B, 1), and once for all jobs that read a chunk of
their prompt, padded on the right. One call for both would pad every single token to the longest chunk. Keys and values
are stored in a pool of pages that all jobs share. One `plan` per call says which pages to read and write, and every
layer follows it. Only rows that have read all of their text reach the head, with their last vector; rows with equal
sampling settings are transformed and drawn together. The completion of a request depends on the request alone: it
equals the output of `generate` for that prompt.

An engine may serve several adapters of one model, and each request names its own. Rows of one adapter are read in one
call; memory, scheduling and the frozen weights are shared (S-LoRA, Sheng et al. 2023, shares even the products with the
frozen weights). Read before: `request`, `scheduler`, `cache/paged.py`.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.cache.paged import PagedLayer, PagePool, plan
from minillm.cache.prefix import PrefixPool
from minillm.constants import EMPTY
from minillm.decoding.generate import check
from minillm.decoding.rows import Completion, Event, judge, limit_of, logprobs_of, most_probable
from minillm.decoding.sampler import Sampler, build_pipeline
from minillm.engine.request import Job, Request
from minillm.engine.scheduler import Scheduler
from minillm.models.cached_state import CachedState
from minillm.models.decoder import Decoder
from minillm.models.language_model import device_of, evaluating


class Engine:
    """Serves requests by continuous batching. Not thread-safe: call all methods from one thread."""

    def __init__(
        self,
        model: Decoder,
        *,
        n_pages: int = 256,
        page_size: int = 16,
        max_running: int = 32,
        chunk: int = 256,
        end_id: int | None = None,
        stop_ids: Collection[int] = (),
        vocab_size: int | None = None,
        share_prefixes: bool = True,
        adapters: Mapping[str, Decoder] = MappingProxyType({}),
    ):
        """`end_id`: the token that ends a text; `stop_ids`: others, which a request's `stop` watches for.

        `vocab_size`: ids at or above it are never drawn.
        n_pages, page_size: see `PagePool`. max_running, chunk: see `Scheduler`. share_prefixes: prompts with a common
        prefix share its pages. adapters: adapted models by the names that requests give them; see `adapters/beside.py`
        for models that share the frozen weights. Raises ValueError for a model without a KV cache, for one that needs
        a source, and for an adapted model of another shape.
        """
        if model.start_options != {"cache"}:
            raise ValueError(
                f"model = {type(model).__name__}: expected a decoder, since the engine needs a paged KV cache; "
                "call generate instead"
            )
        self.vocab_size, self.device = vocab_size, device_of(model)
        self.end_id, self.stop_ids = end_id, stop_ids
        self.pool = (PrefixPool if share_prefixes else PagePool)(n_pages, page_size)
        self.scheduler = Scheduler(self.pool, max_running, chunk)
        state = model.start(0, cache=lambda: PagedLayer(self.pool))
        self.layers: list[PagedLayer] = state.caches  # the same for all adapters
        self.readers: dict[str | None, _Reader] = {None: _Reader(model, state)}
        for name, adapted in adapters.items():
            self.readers[name] = _Reader(adapted, self._start(name, adapted))
        self.n_jobs = 0
        self.news: deque[tuple[Job, Event]] = deque()  # events that are not delivered yet
        self.groups: list[_Group] = []
        self.grouped: list[int] = []  # numbers of the jobs that `groups` was made for, in order

    def _start(self, name: str, adapted: Decoder) -> CachedState:
        """The state of an adapted model, over the layers of the model without an adapter."""
        model, n = self.readers[None].model, len(self.layers)
        state = adapted.start(0, cache=lambda: PagedLayer(self.pool))
        if len(state.caches) != n or adapted.vocab_size != model.vocab_size:
            raise ValueError(
                f"adapter {name!r}: expected the model's {n} caches and {model.vocab_size} tokens, found "
                f"{len(state.caches)} and {adapted.vocab_size}; serve another base by an engine of its own"
            )
        state.caches = self.layers
        return state

    def add(self, request: Request) -> Job:
        """Queue a request; steps then extend its completion. Raises ValueError for one that can never be served."""
        if request.adapter not in self.readers:
            names = ", ".join(name for name in self.readers if name is not None) or "none"
            raise ValueError(f"adapter = {request.adapter!r}: expected one of the engine's ({names}), or None")
        model = self.readers[request.adapter].model
        sampler = Sampler(self._pipeline(request, [len(request.prompt)]))
        check(model, [request.prompt], sampler, request.max_new_tokens, [None], self.end_id, None)
        limit = limit_of(model.context_length, len(request.prompt), request.max_new_tokens)
        needed = len(request.prompt) + limit[0] - 1  # the last token is never read
        room = self.pool.n_pages * self.pool.page_size
        if limit[0] and needed > room:
            raise ValueError(
                f"prompt of {len(request.prompt)} and {limit[0]} new tokens: expected at most {room + 1} together, for "
                f"n_pages = {self.pool.n_pages} of {self.pool.page_size} tokens; give the engine more pages, or ask "
                "for fewer tokens"
            )
        job = Job(self.n_jobs, request, limit)
        self.n_jobs += 1
        if limit[0]:
            self.scheduler.add(job)
        else:
            self._tell(job, Event(job.number, None, None, limit[1]))
        return job

    def cancel(self, job: Job) -> None:
        """Stop a job and discard its undelivered events; does nothing for a finished job. Callbacks may call it."""
        if job.completion.reason is None:
            self.scheduler.drop(job)
            job.completion.reason = "cancelled"
            self.news = deque((other, event) for other, event in self.news if other is not job)

    @property
    def busy(self) -> bool:
        """Whether any job is running or waiting, or any event is undelivered."""
        return bool(self.scheduler.running or self.scheduler.waiting or self.news)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run one step for all jobs; pass each event to the `show` of its request, and return all events.

        Raises ValueError for a model in training mode.
        """
        if any(reader.model.training for reader in self.readers.values()):
            raise ValueError(
                "model: expected one in evaluation mode, since dropout would change what it writes; call model.eval()"
            )
        turns = self.scheduler.turns()
        parts: dict[tuple[str | None, bool], list[tuple[Job, int]]] = {}
        for job, n in turns:
            parts.setdefault((job.request.adapter, n > 1), []).append((job, n))
        read = [(part, self._read(adapter, part)) for (adapter, _), part in parts.items()]  # with vectors (B, D)
        for job, n in turns:  # only now: if the model raises, no job has changed
            self.scheduler.have_read(job, n)
        drawing: dict[str | None, list[Job]] = {}
        vectors: dict[str | None, list[Tensor]] = {}
        for part, x in read:
            done = [i for i, (job, _) in enumerate(part) if not job.n_unread]
            if done:
                adapter = part[0][0].request.adapter
                drawing.setdefault(adapter, []).extend(part[i][0] for i in done)
                vectors.setdefault(adapter, []).append(x if len(done) == len(part) else x[done])
        if drawing:
            logits = [self.readers[adapter].model.head(joined(xs)) for adapter, xs in vectors.items()]
            self._draw([job for jobs in drawing.values() for job in jobs], joined(logits))
        return self._deliver()

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """Add these requests and step until all jobs have finished; return their completions. Uses evaluation mode."""
        jobs = [self.add(request) for request in requests]
        with ExitStack() as stack:
            for reader in self.readers.values():
                stack.enter_context(evaluating(reader.model))
            while self.busy:
                self.step()
        return [job.completion for job in jobs]

    def _read(self, adapter: str | None, turns: Sequence[tuple[Job, int]]) -> Tensor:
        """Read n tokens of each job's text by an adapter's model; return the last hidden vectors, (B, D)."""
        model, state = self.readers[adapter]
        jobs, counts = zip(*turns, strict=True)
        begins, T = [job.n_read for job in jobs], max(counts)
        if T == 1:
            tokens = np.array([[job.text[begin]] for job, begin in zip(jobs, begins, strict=True)])
        else:
            tokens = np.full((len(jobs), T), EMPTY)
            for row, job, begin, n in zip(tokens, jobs, begins, counts, strict=True):
                row[:n] = job.text[begin : begin + n]
        tokens, lengths = (torch.from_numpy(x).to(self.device) for x in (tokens, np.array(begins)))
        positions = (lengths[:, None] + torch.arange(T, device=self.device)).masked_fill(tokens < 0, EMPTY)
        state.lengths = lengths
        planned = plan([job.table for job in jobs], positions, counts)
        for layer in self.layers:
            layer.plan = planned
        x, _ = model.hidden(tokens, state)
        return x[torch.arange(len(jobs)), torch.tensor(counts) - 1] if T > 1 else x[:, 0]

    def _draw(self, jobs: Sequence[Job], logits: Tensor) -> None:
        """Draw one token for every job, or end it. logits: (B, V)."""
        drawn = torch.zeros(len(jobs), dtype=torch.long, device=self.device)
        possible = torch.ones(len(jobs), dtype=torch.bool, device=self.device)
        width = max(job.n_text for job in jobs)
        history = np.full((len(jobs), width), EMPTY)
        for row, job in zip(history, jobs, strict=True):
            row[: job.n_text] = job.text[: job.n_text]
        history = torch.from_numpy(history).to(self.device)
        uniforms = torch.tensor([job.uniforms[job.n_new] for job in jobs], dtype=torch.float64, device=self.device)
        for group in self._groups_of(jobs):
            rows = group.rows
            drawn[rows], possible[rows] = group.sampler.choose(logits[rows], history[rows], uniforms[rows])
        logprobs = [None] * len(jobs)
        if any(job.request.logprobs for job in jobs):
            logprobs = logprobs_of(logits, drawn).tolist()
        tops = self._tops(jobs, logits)
        for i, (job, token, logprob, chosen) in enumerate(
            zip(jobs, drawn.tolist(), logprobs, possible.tolist(), strict=True)
        ):
            logprob = logprob if job.request.logprobs else None
            if chosen:
                event = judge(job.number, token, logprob, self.end_id, job.request.stop, job.limit, job.n_new + 1)
            else:
                event = Event(job.number, None, None, "failed")
            if event.token is not None:
                job.write(token)
            if event.reason is not None:
                self.scheduler.drop(job)
            self._tell(job, event._replace(top=tops[i]) if i in tops else event)

    def _tops(self, jobs: Sequence[Job], logits: Tensor) -> dict[int, tuple[tuple[int, float], ...]]:
        """The most probable tokens for those rows of logits (B, V) whose requests ask for them."""
        asking = [i for i, job in enumerate(jobs) if job.request.n_top]
        if not asking:
            return {}
        found = most_probable(logits[asking], max(jobs[i].request.n_top for i in asking))
        return {i: row[: jobs[i].request.n_top] for i, row in zip(asking, found, strict=True)}

    def _groups_of(self, jobs: Sequence[Job]) -> list["_Group"]:
        """Group jobs with equal sampling settings. The groups are kept until the list of jobs changes."""
        numbers = [job.number for job in jobs]
        if numbers != self.grouped:
            rows: dict[object, list[int]] = {}
            for i, job in enumerate(jobs):
                rows.setdefault((job.request.sampling, job.request.first), []).append(i)
            self.grouped, self.groups = numbers, []
            for group in rows.values():
                sampler = Sampler(self._pipeline(jobs[group[0]].request, [len(jobs[i].request.prompt) for i in group]))
                where = slice(None) if len(rows) == 1 else torch.tensor(group, device=self.device)
                self.groups.append(_Group(where, sampler))
        return self.groups

    def _pipeline(self, request: Request, prompt_lengths: Sequence[int]) -> list:
        ends = {"end_id": self.end_id, "stop_ids": self.stop_ids, "prompt_lengths": prompt_lengths}
        pipeline = build_pipeline(request.sampling, vocab_size=self.vocab_size, **ends)
        return [*request.first, *pipeline]

    def _tell(self, job: Job, event: Event) -> None:
        if event.token is not None:
            job.completion.tokens.append(event.token)
        if event.logprob is not None:
            job.completion.logprobs.append(event.logprob)
        job.completion.reason = event.reason
        self.news.append((job, event))

    def _deliver(self) -> list[Event]:
        """Deliver all pending events.

        subtle: a callback may add or cancel jobs, or raise. After an exception, the next step delivers the rest.
        """
        delivered = []
        while self.news:
            job, event = self.news.popleft()
            delivered.append(event)
            if job.request.show is not None:
                job.request.show(event)
        return delivered


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts in one tensor; of a single part, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Reader(NamedTuple):
    """A model, without or with an adapter, and its state over the shared layers."""

    model: Decoder
    state: CachedState


class _Group(NamedTuple):
    """Rows with equal sampling settings, and their sampler."""

    rows: Tensor | slice
    sampler: Sampler

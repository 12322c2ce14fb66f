"""Continuous batching: requests come and go between two steps, and every step serves all that are there.

A step calls the model once for all jobs that read a single token, (B, 1), and once for those that read chunks of their
prompts, padded on the right. They are not mixed, because in one call every writer would be padded to the longest chunk.
Keys and values live in pages that all jobs share; `plan` is made once a call and followed by every layer. Only the last
vector of a row that has read all of its text goes to the head; rows with equal settings are shaped and drawn together.
What a request gets depends on nothing but the request: it is what `generate` writes for it alone. Read `request`,
`scheduler` and `cache/paged.py` before.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.cache.paged import PagedLayer, PagePool, plan
from minillm.cache.prefix import PrefixPool
from minillm.constants import EMPTY
from minillm.decoding.generate import check
from minillm.decoding.rows import Completion, Event, judge, limit_of, logprobs_of
from minillm.decoding.sampler import Sampler, build_pipeline
from minillm.engine.request import Job, Request
from minillm.engine.scheduler import Scheduler
from minillm.models.decoder import Decoder
from minillm.models.evaluating import evaluating
from minillm.models.language_model import device_of


class Engine:
    """Serves requests; all of its methods belong to one thread."""

    def __init__(
        self,
        model: Decoder,
        *,
        n_pages: int = 256,
        page_size: int = 16,
        max_running: int = 32,
        chunk: int = 256,
        end_id: int | None = None,
        vocab_size: int | None = None,
        share_prefixes: bool = True,
    ):
        """end_id: the token that ends a text. vocab_size: ids at or above it are never drawn. Others: `PagePool`, `Scheduler`.

        Raises ValueError for a model that keeps no keys and values, or that needs more than a text to start.
        """
        if model.start_options != {"cache"}:
            raise ValueError(
                f"model = {type(model).__name__}: expected a decoder, whose keys and values can live in pages; write with generate instead"
            )
        self.model, self.end_id, self.vocab_size, self.device = model, end_id, vocab_size, device_of(model)
        self.pool = (PrefixPool if share_prefixes else PagePool)(n_pages, page_size)
        self.scheduler = Scheduler(self.pool, max_running, chunk)
        self.state = model.start(0, cache=lambda: PagedLayer(self.pool))
        self.n_jobs = 0
        self.news: deque[tuple[Job, Event]] = deque()  # events that nobody has been told yet
        self.groups: list[_Group] = []
        self.grouped: list[int] = []  # the numbers of the jobs, in the order for which the groups were made

    def add(self, request: Request) -> Job:
        """Take a request in; its completion grows with every step. Raises ValueError for one that could never be served."""
        sampler = Sampler(self._pipeline(request, [len(request.prompt)]))
        check(self.model, [request.prompt], sampler, request.max_new_tokens, [None], self.end_id, None)
        limit = limit_of(self.model.context_length, len(request.prompt), request.max_new_tokens)
        needed, room = (
            len(request.prompt) + limit[0] - 1,
            self.pool.n_pages * self.pool.page_size,
        )  # the last token is never read
        if limit[0] and needed > room:
            raise ValueError(
                f"prompt of {len(request.prompt)} and {limit[0]} new tokens: expected at most {room + 1} together, for "
                f"n_pages = {self.pool.n_pages} of {self.pool.page_size} tokens; give the engine more pages or ask for less"
            )
        job = Job(self.n_jobs, request, limit)
        self.n_jobs += 1
        if limit[0]:
            self.scheduler.add(job)
        else:
            self._tell(job, Event(job.number, None, None, limit[1]))
        return job

    def cancel(self, job: Job) -> None:
        """Stop serving a job, at any moment between two events; nothing more is told of it. Of one that is over: nothing."""
        if job.completion.reason is None:
            self.scheduler.drop(job)
            job.completion.reason = "cancelled"
            self.news = deque((other, event) for other, event in self.news if other is not job)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.waiting or self.news)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Serve all jobs once and tell what is new, to whom it concerns and to the caller. Raises ValueError for a model in training."""
        if self.model.training:
            raise ValueError(
                "model: expected one in evaluation mode, since dropout would change what it writes; call model.eval()"
            )
        turns = self.scheduler.turns()
        parts = [turn for turn in turns if turn[1] > 1], [turn for turn in turns if turn[1] == 1]
        read = [(part, self._read(part)) for part in parts if part]  # with vectors (B, D)
        for job, n in turns:  # only now, so that where the model raises nobody has read anything
            self.scheduler.have_read(job, n)
        drawing: list[Job] = []
        vectors: list[Tensor] = []
        for part, x in read:
            done = [i for i, (job, _) in enumerate(part) if not job.n_unread]
            drawing += [part[i][0] for i in done]
            vectors.append(x if len(done) == len(part) else x[done])
        if drawing:
            self._draw(drawing, self.model.head(vectors[0] if len(vectors) == 1 else torch.cat(vectors)))
        return self._deliver()

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """Serve these to the end, and whatever else is there; the model is in eval mode meanwhile."""
        jobs = [self.add(request) for request in requests]
        with evaluating(self.model):
            while self.busy:
                self.step()
        return [job.completion for job in jobs]

    def _read(self, turns: Sequence[tuple[Job, int]]) -> Tensor:
        """Read n tokens of each job's text; the vectors behind the last of them, (B, D)."""
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
        self.state.lengths = lengths
        planned = plan([job.table for job in jobs], positions, counts)
        for layer in self.state.caches:
            layer.plan = planned
        x, _ = self.model.hidden(tokens, self.state)
        return x[torch.arange(len(jobs)), torch.tensor(counts) - 1] if T > 1 else x[:, 0]

    def _draw(self, jobs: Sequence[Job], logits: Tensor) -> None:
        """Every job writes one token, or ends. logits: (B, V)."""
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
        for job, token, logprob, chosen in zip(jobs, drawn.tolist(), logprobs, possible.tolist(), strict=True):
            logprob = logprob if job.request.logprobs else None
            if chosen:
                event = judge(job.number, token, logprob, self.end_id, job.request.stop, job.limit, job.n_new + 1)
            else:
                event = Event(job.number, None, None, "failed")
            if event.token is not None:
                job.write(token)
            if event.reason is not None:
                self.scheduler.drop(job)
            self._tell(job, event)

    def _groups_of(self, jobs: Sequence[Job]) -> list["_Group"]:
        """Jobs with equal settings together; made anew only when others draw than in the last step."""
        numbers = [job.number for job in jobs]
        if numbers != self.grouped:
            rows: dict[object, list[int]] = {}
            for i, job in enumerate(jobs):
                rows.setdefault(job.request.sampling, []).append(i)
            self.grouped, self.groups = numbers, []
            for group in rows.values():
                sampler = Sampler(self._pipeline(jobs[group[0]].request, [len(jobs[i].request.prompt) for i in group]))
                where = slice(None) if len(rows) == 1 else torch.tensor(group, device=self.device)
                self.groups.append(_Group(where, sampler))
        return self.groups

    def _pipeline(self, request: Request, prompt_lengths: Sequence[int]) -> list:
        return build_pipeline(
            request.sampling, vocab_size=self.vocab_size, end_id=self.end_id, prompt_lengths=prompt_lengths
        )

    def _tell(self, job: Job, event: Event) -> None:
        if event.token is not None:
            job.completion.tokens.append(event.token)
        if event.logprob is not None:
            job.completion.logprobs.append(event.logprob)
        job.completion.reason = event.reason
        self.news.append((job, event))

    def _deliver(self) -> list[Event]:
        """Tell the news. subtle: listeners may add and cancel jobs or raise; what was not told then is told after the next step."""
        told = []
        while self.news:
            job, event = self.news.popleft()
            told.append(event)
            if job.request.show is not None:
                job.request.show(event)
        return told


class _Group(NamedTuple):
    """Rows that are shaped alike."""

    rows: Tensor | slice
    sampler: Sampler

"""Scheduling: first come, first served, for compute and for memory; the last job to arrive is preempted first.

In each step, running jobs get tokens to read, in the order of arrival: a decoding job reads one token, and a job in
prefill reads a chunk of its text. All prefill chunks of a step share one token budget. If a job needs a page and none
is free, the running job that arrived last loses its pages and waits again; later it reads its text from the start
(preemption). Then waiting jobs are admitted in the order of arrival, up to the first one that does not fit. No job
overtakes an older one, and the oldest job can always get the pages that it needs. So the oldest unfinished job reads in
every step, and all jobs finish. Continuous batching: Orca (Yu et al. 2022); chunks: Sarathi (Agrawal et al. 2023). This
file has no tensors.
"""

from bisect import insort

from minillm.cache.paged import OutOfPages, PagePool, PageTable
from minillm.cache.prefix import digests
from minillm.engine.request import Job


class Scheduler:
    """Two queues, running and waiting, both in the order of arrival."""

    def __init__(self, pool: PagePool, max_running: int, chunk: int):
        """`max_running`: jobs with pages at the same time; `chunk`: tokens that all jobs in prefill read in a step."""
        for name, value in (("max_running", max_running), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"{name} = {value}: expected a number >= 1")
        self.pool, self.max_running, self.chunk = pool, max_running, chunk
        self.waiting: list[Job] = []
        self.running: list[Job] = []

    def add(self, job: Job) -> None:
        """Put a job into the waiting queue."""
        insort(self.waiting, job, key=lambda job: job.number)

    def drop(self, job: Job) -> None:
        """Remove a finished or cancelled job and release its pages."""
        if job.table is None:
            self.waiting.remove(job)
        else:
            self._stop(job)

    def turns(self) -> list[tuple[Job, int]]:
        """The jobs of this step, the oldest first, and how many tokens each one reads; reserves their pages."""
        budget, turns = self.chunk, []
        for job in [*self.running]:
            writing = job.n_unread == 1
            n = 1 if writing else min(job.n_unread, budget)
            if job.table is None or not self._make_room(job, n):
                break  # it was preempted, and so were all jobs after it
            if n:
                turns.append((job, n))
            budget -= 0 if writing else n
        while budget and self.waiting and len(self.running) < self.max_running and self._admit(self.waiting[0]):
            job = self.running[-1]
            n = min(job.n_unread, budget)
            turns.append((job, n))
            budget -= n
        return turns

    def have_read(self, job: Job, n: int) -> None:
        """Record that a job has read n more tokens, and publish its full pages, so that others can share them."""
        size = self.pool.page_size
        job.table.length += n
        n_full = job.n_read // size
        if n_full > (job.n_read - n) // size:
            job.chain = digests(job.text[: job.n_read].tolist(), size, job.chain, job.origin)
            # subtle: a preempted job reads its text again, and its chain has digests of pages that are not filled yet
            self.pool.publish(job.table.pages[:n_full], job.chain)

    def _admit(self, job: Job) -> bool:
        """Admit the first waiting job, if its text fits and leaves one free page for each running job.

        subtle: found pages never cover the whole text, because the last token must be read to get logits.
        """
        size = self.pool.page_size
        job.chain = digests(job.text[: job.n_text].tolist(), size, job.chain, job.origin)
        found = self.pool.find(job.chain[: (job.n_text - 1) // size])
        table = PageTable(self.pool, found, len(found) * size)
        n = job.n_text - table.length
        if table.missing(n) + len(self.running) > self.pool.n_free:
            table.truncate(0)
            return False
        table.reserve(n)
        job.table = table
        self.running.append(self.waiting.pop(0))
        return True

    def _make_room(self, job: Job, n: int) -> bool:
        """Reserve pages for n more tokens, preempting the last jobs; False if the job itself was preempted."""
        while job.table is not None:
            try:
                job.table.reserve(n)
                return True
            except OutOfPages:
                last = self.running[-1]
                self._stop(last)
                self.add(last)
        return False

    def _stop(self, job: Job) -> None:
        self.running.remove(job)
        job.table.truncate(0)
        job.table = None

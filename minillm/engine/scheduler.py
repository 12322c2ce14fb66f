"""Scheduling: first come, first served, for turns and for memory; the last to arrive is preempted first.

Every step, in the order of arrival: each running job reads what it has not read, one token if it is writing, or a chunk
of its text out of a budget that all readers share. A job that needs a page where none is left takes the memory of the
one that arrived last, which waits again and later reads its text anew (preemption). Then those who wait are let in, in
the order of arrival, the first one that does not fit closing the door behind it. Because nobody overtakes and the
oldest job can always take what it needs, the oldest unfinished job reads in every step; so everyone finishes.
Continuous batching: Orca (Yu et al. 2022); chunks: Sarathi (Agrawal et al. 2023). Tensors are no business of this file.
"""

from bisect import insort

from minillm.cache.paged import OutOfPages, PagePool, PageTable
from minillm.cache.prefix import digests
from minillm.engine.request import Job


class Scheduler:
    """Two queues, both in the order of arrival."""

    def __init__(self, pool: PagePool, max_running: int, chunk: int):
        """`max_running`: jobs with memory at once; `chunk`: tokens a step, of texts that are longer than the one token of a writer."""
        for name, value in (("max_running", max_running), ("chunk", chunk)):
            if value < 1:
                raise ValueError(f"{name} = {value}: expected a number >= 1")
        self.pool, self.max_running, self.chunk = pool, max_running, chunk
        self.waiting: list[Job] = []
        self.running: list[Job] = []

    def add(self, job: Job) -> None:
        """A job waits for its turn."""
        insort(self.waiting, job, key=lambda job: job.number)

    def drop(self, job: Job) -> None:
        """A job is over, or is wanted no more; its memory is free."""
        if job.table is None:
            self.waiting.remove(job)
        else:
            self._stop(job)

    def turns(self) -> list[tuple[Job, int]]:
        """The jobs of this step, the oldest first, and how many tokens each one reads; there is room for them."""
        budget, turns = self.chunk, []
        for job in [*self.running]:
            writing = job.n_unread == 1
            n = 1 if writing else min(job.n_unread, budget)
            if job.table is None or not self._make_room(job, n):
                break  # its memory went to an older one, and so did that of all after it
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
        """A job has read n more tokens: the pages that it has filled can be shared from now on."""
        size = self.pool.page_size
        job.table.length += n
        n_full = job.n_read // size
        if n_full > (job.n_read - n) // size:
            job.chain = digests(job.text[: job.n_read].tolist(), size, job.chain)
            # subtle: a job that reads its text anew knows the digests of pages which it has not filled yet
            self.pool.publish(job.table.pages[:n_full], job.chain)

    def _admit(self, job: Job) -> bool:
        """Let the first of those who wait in, if its text fits and leaves a page for each that runs; one token is always left to read."""
        size = self.pool.page_size
        job.chain = digests(job.text[: job.n_text].tolist(), size, job.chain)
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
        """Room for n more tokens, at the cost of those that arrived last; False where the job itself was the last."""
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

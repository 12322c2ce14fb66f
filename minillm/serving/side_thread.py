"""Side thread: a thread beside the event loop that makes slow calls, one at a time, for a bounded number of requests.

Tokenizing a long body, or computing vectors, may take seconds. The event loop must go on meanwhile, and the requests
that wait must not fill the memory, so those beyond a bound are told to come back. Read before: `errors`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minillm.serving.errors import queue_full


class SideThread:
    """A thread that makes calls in the order of arrival. All methods are for the event loop."""

    def __init__(self, name: str, most_open: int):
        """`most_open`: calls that run or wait."""
        self.pool, self.most_open, self.n_open = ThreadPoolExecutor(1, thread_name_prefix=name), most_open, 0

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of a function. Raises ApiError if there is no room, and the errors of the function."""
        if self.n_open >= self.most_open:
            raise queue_full(self.n_open, "requests are read or wait", self.most_open)
        self.n_open += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)
        finally:
            self.n_open -= 1

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown(cancel_futures=True)

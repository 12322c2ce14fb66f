"""Metrics of a server in the text format of Prometheus (2014), to be read at /metrics.

Counters only grow, gauges show the moment, and a histogram counts how many values were at most each bound. Only the
event loop touches a meter, so it needs no lock.
"""

from bisect import bisect_left
from collections import Counter

from minillm.serving.worker import Load

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # bounds of times


class Meter:
    """Counters of the work of a server."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (path, status) -> number
        self.prompt_tokens = self.completion_tokens = 0
        self.waits = [0] * (len(SECONDS) + 1)  # times to the first token, by the bound that they reach
        self.waited = 0.0  # seconds, all together

    def first_token_after(self, seconds: float) -> None:
        """Count the time from a request to the first token of one of its texts."""
        self.waits[bisect_left(SECONDS, seconds)] += 1
        self.waited += seconds

    def text(self, load: Load) -> str:
        """All metrics."""
        lines = ["# HELP minillm_requests_total Requests that were answered.", "# TYPE minillm_requests_total counter"]
        for (path, status), n in sorted(self.requests.items()):
            lines.append(f'minillm_requests_total{{path="{path}",status="{status}"}} {n}')
        lines += _lines("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens)
        lines += _lines("completion_tokens_total", "counter", "Tokens that were drawn.", self.completion_tokens)
        lines += _lines("running", "gauge", "Texts that are being written.", load.running)
        lines += _lines("waiting", "gauge", "Texts that wait for room.", load.waiting)
        if load.pages:
            lines += _lines("pages_free", "gauge", "Free pages of the KV cache.", load.pages_free)
            lines += _lines("pages", "gauge", "Pages of the KV cache.", load.pages)
        name = "minillm_time_to_first_token_seconds"
        lines += [f"# HELP {name} Time from a request to the first text.", f"# TYPE {name} histogram"]
        total = 0
        for bound, n in zip((*SECONDS, "+Inf"), self.waits, strict=True):
            total += n
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return "\n".join([*lines, f"{name}_sum {self.waited:.6f}", f"{name}_count {total}", ""])


def _lines(name: str, kind: str, what: str, value: int) -> list[str]:
    return [f"# HELP minillm_{name} {what}", f"# TYPE minillm_{name} {kind}", f"minillm_{name} {value}"]

"""Time and memory of counting n-grams: python -m benchmarks.ngram [--tokens 10_000_000] [--order 5]

The text is drawn token by token from Zipf's law, so nearly all long n-grams are different, which is harder than any
real text. One thread; a step counts 2^21 tokens, as `CountingStep` does. Memory is the greatest of the process, Python
and torch included.
"""

import resource
import time

import numpy as np
import torch

from benchmarks.record import record
from benchmarks.timing import timed
from minillm.config.flags import Parser
from minillm.datasets.batch import Batch
from minillm.models.ngram import Ngram, NgramConfig

ROWS, WIDTH = 16, 2**17


def peak() -> float:
    """Greatest memory of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Count, look up once, and print."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=8192)
    args = parser.parse()
    torch.set_num_threads(1)
    model = Ngram(NgramConfig(order=args.order), args.vocab_size)
    before, seconds, busy, n_counted, step = peak(), 0.0, 0.0, 0, 0
    chances = 1 / np.arange(1, args.vocab_size + 1)
    while n_counted < args.tokens:
        width = min(WIDTH, -(-(args.tokens - n_counted) // ROWS))
        uniforms = np.random.default_rng(step).random((ROWS, width + 1), np.float32)
        ids = torch.from_numpy(
            np.searchsorted(chances.cumsum() / chances.sum(), uniforms).clip(max=args.vocab_size - 1)
        )
        (n, cpu), wall = timed(
            lambda ids=ids: timed(lambda: model.count(Batch(ids[:, :-1], ids[:, 1:])), time.process_time)
        )
        n_counted, seconds, busy = n_counted + n, seconds + wall, busy + cpu
        step += 1
    sizes = [len(level.keys) for level in model.counts.levels]
    n_bytes = sum(buffer.nbytes for buffer in model.counts.buffers())
    counting = peak()
    ready = timed(lambda: model(ids[:1, :8]))[1]
    print(
        f"{n_counted:,} tokens of {args.vocab_size:,}, order {args.order}: "
        f"{sum(sizes):,} n-grams {sizes}, {n_bytes / 1e6:.0f} MB"
    )
    print(f"{before:.0f} MB before the first token")
    print(f"first look-up {ready:.1f} s (it works out what smoothing needs); peak memory {peak():.0f} MB")
    record("ngram-counting", [{"seconds": seconds, "cpu_seconds": busy, "peak_megabytes": counting}])


if __name__ == "__main__":
    main()

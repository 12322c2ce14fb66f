"""The cost of attention as a text grows: python -m benchmarks.attention

Causal attention forward and backward in float32, three ways: the equation (`attend_plainly`), tiles
(`attend_in_tiles`), and torch's fused kernel (`attend`). For each length it prints the peak of allocated bytes, inputs
and gradients included, from torch's profiler, and the median milliseconds of runs taken in turns. It records the
exponent, the slope of a line through the logarithms: 2 for a cost that grows with the square of the length, 1 for a
linear one.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import record
from benchmarks.timing import in_turns
from minillm.cache.kv_cache import KVView
from minillm.config.flags import Parser
from minillm.layers.attention import attend, attend_plainly
from minillm.layers.flash import attend_in_tiles

ROADS: dict[str, Callable[..., torch.Tensor]] = {"plain": attend_plainly, "tiled": attend_in_tiles, "fused": attend}


def run(road: Callable[..., torch.Tensor], T: int, n_heads: int, d_head: int) -> None:
    """Inputs, forward and backward."""
    q, k, v = (torch.randn(1, n_heads, T, d_head, requires_grad=True) for _ in range(3))
    positions = torch.arange(T)[None]
    out = road(q, KVView(k, v, positions[:, None], dense=True), positions, causal=True)
    torch.autograd.grad(out, (q, k, v), torch.ones_like(out))


def peak_bytes(work: Callable[[], None]) -> int:
    """The greatest number of bytes allocated at any moment of `work`."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = np.cumsum([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])])
    return int(held.max())


def exponent(lengths: list[int], costs: list[float]) -> float:
    """The least-squares n of log(cost) = n log(length) + constant."""
    return float(np.polyfit(np.log(lengths), np.log(costs), deg=1)[0])


def main() -> None:
    """Print a row for each length, and record the exponents."""
    parser = Parser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="tokens of the texts")
    parser.add_argument("--n-heads", type=int, default=2, help="heads, each with its own keys")
    parser.add_argument("--d-head", type=int, default=64, help="width of a head")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each; 0 measures bytes alone")
    args = parser.parse()
    torch.set_num_threads(1)

    columns = [f"{name} {unit}" for unit in ("MiB", "ms")[: 1 + bool(args.repeats)] for name in ROADS]
    print(f"{'tokens':>8}" + "".join(f"{name:>12}" for name in columns))
    table: list[list[float]] = []
    for T in args.lengths:
        works = {name: lambda road=road, T=T: run(road, T, args.n_heads, args.d_head) for name, road in ROADS.items()}
        row = [peak_bytes(work) / 2**20 for work in works.values()]
        if args.repeats:
            row += [1000 * statistics.median(seconds) for seconds in in_turns(works, args.repeats).values()]
        table.append(row)
        print(f"{T:>8}" + "".join(f"{x:>12.1f}" for x in row))
    names = [f"{name}_{unit}_exponent" for unit in ("bytes", "time")[: 1 + bool(args.repeats)] for name in ROADS]
    record(
        "attention",
        [{name: exponent(args.lengths, costs) for name, costs in zip(names, zip(*table, strict=True), strict=True)}],
    )


if __name__ == "__main__":
    main()

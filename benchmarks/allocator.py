"""The gain from keeping freed memory: python -m benchmarks.allocator [--config gpt-tiny] [--repeats 5]

Trains a few steps with and without `train.keep_memory`, in turns, each in its own process, because a process cannot
undo the setting. Prints and records the median milliseconds of a step and their ratio.
"""

import statistics
import subprocess
import sys

from benchmarks.record import ROOT, record
from benchmarks.timing import timed
from minillm.config.flags import Parser, override
from minillm.runs import wiring
from minillm.runs.config import load_config
from minillm.speed.allocator import keep_freed_memory


def milliseconds(config: str, keep: bool, n_steps: int) -> float:
    """The median time of a step in this process."""
    if keep:
        keep_freed_memory()
    loaded = override(load_config(config), {"train.precision": "bf16"})
    data = wiring.build_data(loaded, say=lambda line: None)
    batch, model = wiring.build_batches(loaded, data), wiring.build_model(loaded, data.tokenizer.vocab_size)
    step = wiring.build_step(loaded, model)
    times = [timed(lambda i=i: step(batch(i)))[1] for i in range(n_steps)]
    return 1000 * statistics.median(times[n_steps // 5 :])


def main() -> None:
    """Measure both in turns."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="gpt-tiny")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--keep", choices=["yes", "no"], help="measure in this process only, and print its milliseconds"
    )
    args = parser.parse()
    if args.keep:
        return print(milliseconds(args.config, args.keep == "yes", args.steps))
    rows = []
    for _ in range(args.repeats):
        command = [sys.executable, "-m", "benchmarks.allocator", "--config", args.config, "--steps", str(args.steps)]
        kept, given_back = (
            float(
                subprocess.run([*command, "--keep", keep], check=True, capture_output=True, text=True, cwd=ROOT).stdout
            )
            for keep in ("yes", "no")
        )
        rows.append({"kept_ms": kept, "given_back_ms": given_back, "time_share": kept / given_back})
    return record("allocator", rows)


if __name__ == "__main__":
    main()

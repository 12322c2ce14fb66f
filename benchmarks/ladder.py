"""The gain of each step on the way to a transformer: python -m benchmarks.ladder --seconds 100

Every model of the ladder trains on the same corpus with the same tokenizer for the same time. A short trial of the
command finds the number of steps; then each model is trained, one after the other, and its stories are checked. The
n-gram table is the exception: it has learned everything once it has counted every story once. With --write, the results
also go to benchmarks/ladder.json, from where `python -m benchmarks.readme` copies them into the README.
"""

import json
import math
import tempfile
from pathlib import Path

from benchmarks.figures import measure_training
from benchmarks.record import ROOT, machine
from minillm.config.flags import Parser
from minillm.runs.config import load_config
from minillm.training.metrics import read_metrics

LADDER = ROOT / "benchmarks" / "ladder.json"
# as many active parameters as the dense model
EXPERTS = ["--model.n_experts", "8", "--model.n_experts_per_token", "2", "--model.d_ff", "256"]
RUNGS = {  # label -> (config, flags)
    "n-gram table": ("ngram-tiny", []),
    "RNN": ("rnn-tiny", []),
    "GRU": ("gru-tiny", []),
    "LSTM": ("lstm-tiny", []),
    "GPT": ("gpt-tiny", []),
    "GPT with experts": ("gpt-tiny", EXPERTS),
}
FIGURES = [
    "parameters",
    "steps",
    "tokens_per_second",
    "val_loss",
    "bits_per_byte",
    "regret_percent",
    "valid_percent",
    "train_seconds",
]


def seconds_per_step(config: str, flags: list[str], folder: Path, n_steps: int = 30) -> float:
    """Seconds of the training loop alone, without its first steps."""
    steps = ["--train.max_steps", str(n_steps), "--train.eval_every", str(n_steps), "--train.log_every", "10"]
    measure_training(config, 0, folder, [*flags, *steps], valid=False)
    at = {
        row["step"]: row["seconds"]
        for row in read_metrics(folder / f"{config}-0" / "metrics.jsonl")
        if "seconds" in row
    }
    return (at[n_steps] - at[10]) / (n_steps - 10)


def measure(config: str, flags: list[str], seconds: float, seed: int) -> dict[str, float]:
    """Train for `seconds` and evaluate."""
    with tempfile.TemporaryDirectory() as trial, tempfile.TemporaryDirectory() as folder:
        one_pass = load_config(config).task.kind == "count"
        n_steps = 0 if one_pass else max(1, round(seconds / seconds_per_step(config, flags, Path(trial))))
        more = [] if one_pass else ["--train.max_steps", str(n_steps), "--train.eval_every", str(n_steps)]
        result = measure_training(config, seed, Path(folder), [*flags, *more])
        rows = read_metrics(Path(folder) / f"{config}-{seed}" / "metrics.jsonl")
    tokens = [row["tokens"] for row in rows if "tokens" in row]
    result["tokens_per_second"] = result["steps"] * sum(tokens) / len(tokens) / result["train_seconds"]
    return {name: result[name] for name in FIGURES}


def table(ladder: dict) -> str:
    """The Markdown table of the ladder."""
    lines = [
        "| model | parameters | tokens/s | tokens seen | loss | bits per byte | regret | whole stories |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, x in ladder["models"].items():
        seen = x["tokens_per_second"] * x["train_seconds"]
        lines.append(
            f"| {name} | {x['parameters']:,.0f} | {x['tokens_per_second']:,.0f} | {seen / 1e6:.1f} M | "
            f"{x['val_loss']:.3f} | {x['bits_per_byte']:.3f} | {x['regret_percent']:.1f} % | "
            f"{x['valid_percent']:.0f} % |"
        )
    return "\n".join([*lines, "", f"{ladder['seconds']:.0f} s of training each, on {ladder['machine']}.", ""])


def main(argv: list[str] | None = None) -> None:
    """Measure the whole ladder, print it, and record it with --write."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="training time of each model (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and batches (default 0)")
    parser.add_argument("--write", action="store_true", help="record the results in benchmarks/ladder.json")
    args = parser.parse(argv)
    if not 1 <= args.seconds < math.inf:
        parser.error(
            f"--seconds {args.seconds:g}: expected a number >= 1, as fewer than a few steps measure nothing; raise it"
        )
    if not 0 <= args.seed < 2**63:
        parser.error(f"--seed {args.seed}: expected int 0 ... {2**63 - 1}")
    models = {}
    for name, (config, flags) in RUNGS.items():
        models[name] = measure(config, flags, args.seconds, args.seed)
        print(name, models[name], flush=True)
    ladder = {"machine": machine(), "seconds": args.seconds, "seed": args.seed, "models": models}
    print(table(ladder))
    if args.write:
        LADDER.write_text(json.dumps(ladder, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""LoRA compared with full fine-tuning, at equal steps: python -m benchmarks.lora [--run runs/gpt-tiny] [--seeds 3]

Trains gpt-tiny, or takes a run of it, and fine-tunes it on the diary (configs/lora-tiny.toml) twice: with an adapter,
and with all weights, at learning rates that suit each. The columns:

    diary, regret     validation loss on the new stories, its distance from their entropy (percent); "before": base run
    stories           validation loss on the stories of the base run: forgetting
    trained           parameters with a gradient, and their share
    state             MB of their gradients and of the optimizer's state
    kept              MB that the forward of one batch keeps for the backward
    process           greatest MB of the training process, Python and torch (about 300 MB) included
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.record import ROOT, record
from minillm.config.flags import Parser
from minillm.datasets.batch import Batch
from minillm.evaluation.validation import Validation
from minillm.runs import folder, wiring
from minillm.runs.config import RunConfig, load_config
from minillm.tasks.task import Data
from minillm.training.optim import AdamW, Together
from minillm.training.step import GradientStep

FULL = {"adapter.kind": "none", "optim.kind": "muon", "optim.lr": "3e-3", "optim.muon_lr": "0.01"}
COLUMNS = {
    "diary": 4,
    "regret": 1,
    "stories": 4,
    "trained": 0,
    "share": 2,
    "state": 2,
    "kept": 1,
    "process": 0,
}  # name -> decimals


def train(path: Path, words: list[str]) -> float:
    """Run train.py to its end; return the greatest memory of its process in MB."""
    command = [sys.executable, str(ROOT / "train.py"), *words, "--train.run", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"benchmarks.lora: this failed: {' '.join(command)}")
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def kept_bytes(step: GradientStep, batch: Batch) -> int:
    """Bytes that autograd keeps between the forward and the backward of a batch, without weights."""
    weights, kept = {p.untyped_storage().data_ptr() for p in step.working.parameters()}, {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        now = step.parts()
        loss = now.objective(now.model, batch)
    assert loss.total.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def memory(config: RunConfig, data: Data) -> dict[str, float]:
    """The memory that training by this config needs beside the weights."""
    model = wiring.build_model(config, data.tokenizer.vocab_size)
    step = wiring.build_step(config, model)
    members = step.optimizer.members if isinstance(step.optimizer, Together) else [step.optimizer]
    state = [x for member in members for x in (member.m + (member.v if isinstance(member, AdamW) else []))]
    trained = sum(p.numel() for p in step.parameters)
    return {
        "trained": trained,
        "share": 100 * trained / sum(p.numel() for p in model.parameters()),
        "state": sum(x.nbytes for x in step.parameters + state) / 1e6,  # gradients are as large as parameters
        "kept": kept_bytes(step, wiring.build_batches(config, data)(0)) / 1e6,
    }


def losses(path: Path, diary: Validation, stories: Validation) -> dict[str, float]:
    """A run's losses on the new stories and on the old ones."""
    model = folder.open_run(path).text.model
    new = diary(model)
    return {
        "diary": new["val_loss"],
        "regret": 100 * new["regret"] / new["source_loss"],
        "stories": stories(model)["val_loss"],
    }


def main() -> None:
    """Train, measure, and print the table and its numbers as JSON."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained gpt-tiny; default: train one")
    parser.add_argument("--seeds", type=int, default=1, help="repeats of both, each with another seed")
    parser.add_argument("--precision", default="auto", help="fp32, bf16, or auto for the faster one")
    args = parser.parse()
    with tempfile.TemporaryDirectory() as name:
        to, base = Path(name), args.run
        if base is None:
            base = to / "gpt-tiny"
            train(base, ["--config", "gpt-tiny"])
        saved = folder.read_best(base)
        new, old = (
            wiring.build_data(config, saved["tokenizer"]) for config in (load_config("lora-tiny"), saved["config"])
        )
        validations = wiring.build_validation(saved["config"], new), wiring.build_validation(saved["config"], old)
        rows = {"before": [losses(base, *validations)], "LoRA": [], "full": []}
        for seed in range(args.seeds):
            for way, flags in {"LoRA": {}, "full": FULL}.items():
                path, flags = (
                    to / f"{way}-{seed}",
                    flags | {"train.seed": str(seed), "train.precision": args.precision},
                )
                words = [
                    "--config",
                    "lora-tiny",
                    "--init-from",
                    str(base),
                    *(word for k, v in flags.items() for word in (f"--{k}", v)),
                ]
                process = train(path, words)
                row = losses(path, *validations) | memory(folder.read_best(path)["config"], new) | {"process": process}
                rows[way].append(row)
                print(json.dumps({"way": way, "seed": seed, **row}), flush=True)
    ways = ("LoRA", "full")
    record(
        "lora",
        [
            {f"{way}_{column}": row[column] for way in ways for row in [rows[way][i]] for column in row}
            for i in range(args.seeds)
        ],
    )
    print(f"\n{'':8}" + "".join(f"{column:>10}" for column in COLUMNS))
    for way, found in rows.items():
        means = {column: statistics.fmean(row[column] for row in found) for column in found[0]}
        print(
            f"{way:8}"
            + "".join(
                f"{means[column]:10,.{COLUMNS[column]}f}" if column in means else f"{'':10}" for column in COLUMNS
            )
        )


if __name__ == "__main__":
    main()

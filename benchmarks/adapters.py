"""Every kind of adapter on two tasks: python -m benchmarks.adapters [--run runs/gpt-tiny] [--seeds 3] [--steps 300]

Trains gpt-tiny, or takes a run of it, and adapts it (configs/lora-tiny.toml) to a new world, the diary, and to a new
style, its own stories in lower case without full stops; at equal steps, and again for as long as LoRA took. Each
way has the learning rate that suits it. Prefix and soft prompt leave less of the context to the text. The columns:

    diary, style      validation loss after equal steps          same time      the same after equal seconds
    trained           parameters with a gradient                 file           kB of the checkpoint to sample from
    process           greatest MB of the training process, Python and torch (about 300 MB) included
    seconds           of the training at equal steps

At the end it measures what QLoRA is for: the bytes of the weights of gpt-tiny, and the peak memory of a training step
at 100 million parameters (on Linux only).
"""

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.lora import train
from benchmarks.record import ROOT, record
from minillm.adapters.adapter import Adapter
from minillm.adapters.build_adapter import NoAdapter, add_adapter
from minillm.adapters.lora import LoRAConfig
from minillm.adapters.qlora import QLoRAConfig
from minillm.config.flags import Parser
from minillm.datasets.batch import Batch
from minillm.datasets.stories import STORIES, World
from minillm.models.decoder import Decoder, DecoderConfig
from minillm.objectives.next_token import next_token
from minillm.quantization.packed import nbytes
from minillm.runs import folder
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.step import GradientStep

ALL = "to_*,up,down"
ADAMW = {"optim.kind": "adamw"}
RANK = {"adapter.rank": "2", "adapter.alpha": "4", "adapter.targets": ALL}
WAYS = {  # name -> flags beside configs/lora-tiny.toml
    "full": {"adapter.kind": "none", "optim.lr": "3e-3", "optim.muon_lr": "0.01"},
    "LoRA": RANK,
    "QLoRA": {"adapter.kind": "qlora", **RANK},
    "DoRA": {"adapter.kind": "dora", **RANK},
    "bottleneck": {"adapter.kind": "bottleneck", "adapter.width": "8"},
    "prefix": {"adapter.kind": "prefix", "adapter.length": "16", **ADAMW, "optim.lr": "3e-2"},
    "soft_prompt": {"adapter.kind": "soft_prompt", "adapter.length": "16", **ADAMW, "optim.lr": "3e-2"},
    "IA3": {"adapter.kind": "ia3", **ADAMW, "optim.lr": "3e-2"},
    "BitFit": {"adapter.kind": "bitfit", **ADAMW, "optim.lr": "1e-2"},
}
COLUMNS = ("diary", "style", "diary, same time", "style, same time", "trained", "file", "process", "seconds")
LARGE = DecoderConfig(n_layers=12, d_model=768, n_heads=12, context_length=64)
LARGE_VOCAB, ROWS = 20_000, 1  # few tokens, so that the memory is that of the weights
HEAVY: dict[str, Adapter] = {
    "full": NoAdapter(),
    "LoRA": LoRAConfig(targets=("to_*", "up", "down")),
    "QLoRA": QLoRAConfig(targets=("to_*", "up", "down")),
}


def restyled(story: str) -> str:
    """A story in the new style.

    >>> restyled("Anna ran. She was glad.")
    'anna ran, she was glad,'
    """
    return story.lower().replace(".", ",")


def write_style(path: Path, n_stories: int) -> None:
    """Write stories in the new style, one a line; none of them is among those of gpt-tiny."""
    stories = World(STORIES).generate(n_stories, seed=1)
    path.write_text("".join(json.dumps({"text": restyled(story)}) + "\n" for story in stories), encoding="utf-8")


def adapt(path: Path, base: Path, flags: dict[str, str]) -> dict[str, float]:
    """Train one adapter; its measurements."""
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    process = train(path, ["--config", "lora-tiny", "--init-from", str(base), *words])
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    model = folder.open_run(path).text.model
    return {
        "loss": summary["val_loss"],
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "file": (path / "checkpoint" / "best.pt").stat().st_size / 1e3,
        "process": process,
        "seconds": summary["train_seconds"],
    }


def compare(base: Path, at: Path, seed: int, steps: int, precision: str, corpora: dict[str, dict]) -> dict[str, dict]:
    """All ways with one seed: way -> column -> number."""
    found: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    same = {"train.seed": str(seed), "train.precision": precision, "schedule.warmup_steps": str(min(10, steps // 4))}
    for task, corpus in corpora.items():
        for way, flags in WAYS.items():
            asked = flags | same | corpus | {"train.max_steps": str(steps)}
            row = adapt(at / f"{way}-{task}-{seed}", base, asked)
            found[way] |= {task: row.pop("loss"), **row}
        seconds = found["LoRA"]["seconds"]
        for way, flags in WAYS.items():
            n = max(1, round(steps * seconds / max(found[way]["seconds"], 1e-9)))
            asked = flags | same | corpus | {"train.max_steps": str(n)}
            asked["schedule.warmup_steps"] = str(min(int(same["schedule.warmup_steps"]), n))
            found[way][f"{task}, same time"] = adapt(at / f"{way}-{task}-{seed}-time", base, asked)["loss"]
        print(json.dumps({"seed": seed, "task": task, **{way: row[task] for way, row in found.items()}}), flush=True)
    return found


def stored(base: Path, adapter: Adapter) -> int:
    """Bytes of all weights of a run with an adapter on it."""
    return nbytes(add_adapter(folder.open_run(base).text.model, adapter))


def step_memory(way: str) -> float:
    """The greatest MB of this process during a training step of a decoder of 100 million parameters."""
    torch.manual_seed(0)
    model = add_adapter(Decoder(LARGE, LARGE_VOCAB), HEAVY[way])
    step = GradientStep(model, next_token, build_optimizer(model, OptimConfig(kind="adamw")), lambda _: 1.0, lr=1e-3)
    tokens = torch.randint(LARGE_VOCAB, (ROWS, LARGE.context_length))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what building and rounding the model has freed
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    step(Batch(tokens, tokens))
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


def large(ways: Iterable[str]) -> dict[str, float]:
    """`step_memory` of each way, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.adapters", "--step-memory"]
    return {
        way: float(subprocess.run([*command, way], cwd=ROOT, capture_output=True, check=True).stdout) for way in ways
    }


def main() -> None:
    """Train, measure, and print the table and its numbers as JSON."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained gpt-tiny; default: train one")
    parser.add_argument("--seeds", type=int, default=1, help="repeats of all ways, each with another seed")
    parser.add_argument("--steps", type=int, default=300, help="steps of each training")
    parser.add_argument("--stories", type=int, default=4000, help="stories of each task")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16, or auto for the faster one")
    parser.add_argument("--try", dest="tried", action="store_true", help="record nothing")
    parser.add_argument("--step-memory", metavar="WAY", choices=HEAVY, help="only print the memory of a large step")
    args = parser.parse()
    if args.step_memory:
        return print(step_memory(args.step_memory))
    with tempfile.TemporaryDirectory() as name:
        at, base = Path(name), args.run
        if base is None:
            base = at / "gpt-tiny"
            train(base, ["--config", "gpt-tiny"])
        write_style(at / "style.jsonl", args.stories)
        corpora = {
            "diary": {"data.n_stories": str(args.stories)},
            "style": {"data.corpus": str(at / "style.jsonl")},
        }
        results = [compare(base, at, seed, args.steps, args.precision, corpora) for seed in range(args.seeds)]
        sizes = {"LoRA": stored(base, LoRAConfig()) / 1e6, "QLoRA": stored(base, QLoRAConfig()) / 1e6}
    peaks = large(HEAVY) if sys.platform == "linux" else {}
    rows = [
        {
            f"{way}_{column.replace(', ', '_').replace(' ', '_')}": value
            for way, row in found.items()
            for column, value in row.items()
        }
        | {f"{way}_stored": size for way, size in sizes.items()}
        | {f"{way}_large": peak for way, peak in peaks.items()}
        for found in results
    ]
    if not args.tried:
        record("adapters", rows)
    print(f"\n{'':12}" + "".join(f"{column:>18}" for column in COLUMNS))
    for way in WAYS:
        means = [statistics.fmean(found[way][column] for found in results) for column in COLUMNS]
        print(f"{way:12}" + "".join(f"{x:>18.3f}" if x < 100 else f"{x:>18,.0f}" for x in means))
    print("MB of gpt-tiny's weights:", ", ".join(f"{way} {size:.2f}" for way, size in sizes.items()))
    if peaks:
        print("MB of a step at 100 million parameters:", ", ".join(f"{way} {peak:,.0f}" for way, peak in peaks.items()))
    return None


if __name__ == "__main__":
    main()

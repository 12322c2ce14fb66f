"""Train a model from a config. Any key of the config can be set by a flag, --section.key value.

--resume continues a run that was stopped. --init-from starts a new run with the weights of another one, or trains an
adapter on them (--adapter.kind lora).
"""

import argparse
import os
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

from minillm.commands import spelled
from minillm.config.flags import Parser, add_flags
from minillm.config.loading import to_toml
from minillm.console import report
from minillm.datasets.batch_table import batch_table
from minillm.runs import companions, folder, start, training, wiring
from minillm.runs.config import CONFIGS, RunConfig
from minillm.runs.lock import only_trainer
from minillm.speed.allocator import keep_freed_memory
from minillm.system.os_errors import sentence
from minillm.system.out_of_memory import memory_errors_as_value_errors
from minillm.training.fast_step import compile_step
from minillm.training.interruption import Interrupted
from minillm.training.profile import profile
from minillm.training.step import Diverged

TRAIN, SAMPLE = spelled("train"), spelled("sample")
EXAMPLES = f"""\
{TRAIN} --config gpt-tiny                           # the first run: two to four minutes on two CPU cores
{TRAIN} --config gpt-tiny --data.corpus my.txt      # on your own text
{TRAIN} --config gpt-tiny --model.n_layers 2        # any key of a config is a flag
{TRAIN} --config gpt-tiny --show-batch              # the first batch, token -> target
{TRAIN} --resume runs/gpt-tiny                      # continue a run that was stopped
{TRAIN} --config lora-tiny --init-from runs/gpt-tiny"""
OFTEN = [
    *("config", "resume", "init_from", "device", "show_batch", "dry_run", "profile"),
    *("data.corpus", "train.run", "train.max_steps", "train.batch_size", "train.seed", "optim.lr"),
]
LOWER = "lower train.batch_size or the sizes in [model], or raise train.n_micro_batches"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train; return the exit status."""
    args = parse(argv)
    flags = {name: value for name, value in vars(args).items() if "." in name}
    try:
        refuse_several_processes()
        with memory_errors_as_value_errors(LOWER, limited=wiring.find_device(args.device) == "cpu"):
            go(args, flags)
    except Interrupted as e:
        return e.status
    except KeyboardInterrupt as e:
        print(f"\n{e if e.args else 'interrupted before training'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, Diverged) as e:
        print(f"{TRAIN.removeprefix('python ')}: {sentence(e)}", file=sys.stderr)
        return 2
    return 0


def refuse_several_processes() -> None:
    """Raise ValueError if torchrun started several processes; all of them would train the same run."""
    n = os.environ.get("WORLD_SIZE", "1")
    if n != "1":
        raise ValueError(
            f"WORLD_SIZE = {n}: expected 1, since this would train {n} equal runs; start train.py without torchrun"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
    examples = f"{EXAMPLES}\n\nconfigs:\n{textwrap.fill(known, 100, break_on_hyphens=False)}"
    parser = Parser(prog=TRAIN.removeprefix("python "), description=__doc__, examples=examples, often=OFTEN)
    parser.add_argument("--config", metavar="NAME", help="the name of a config, or a .toml file; starts a new run")
    parser.add_argument(
        "--resume", metavar="RUN", type=Path, help="folder of a run to continue from its latest checkpoint"
    )
    parser.add_argument(
        "--init-from",
        metavar="RUN",
        type=Path,
        help="folder of a run; the new run starts with its weights and tokenizer",
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if available, else the CPU), cpu, cuda or mps")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--show-batch", action="store_true", help="print the first batch, token by token, and exit")
    looks.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, print the plan and the config, and exit before the first step",
    )
    looks.add_argument(
        "--profile", metavar="STEPS", type=int, help="train this many steps, print where the time goes, and exit"
    )
    add_flags(parser, RunConfig)
    args = parser.parse(argv)
    if args.profile is not None and args.profile < 1:
        parser.error(f"--profile {args.profile}: expected a number of steps, at least 1")
    if args.resume and (args.config or args.init_from):
        parser.error(
            "--resume continues a run with its own config; use --init-from RUN to start a new run from its weights"
        )
    if not (args.config or args.resume or args.init_from):
        parser.error(f"expected --config NAME (one of {known}), --resume RUN or --init-from RUN")
    return args


def go(args: argparse.Namespace, flags: dict[str, str]) -> None:
    """Train from the parsed command line to the summary, holding the lock on the run."""
    with ExitStack() as held:
        work(args, flags, held)


def work(args: argparse.Namespace, flags: dict[str, str], held: ExitStack) -> None:
    """See `go`. `held` holds the lock on the run's folder, unless nothing is written there."""
    began, device = time.monotonic(), wiring.find_device(args.device)
    only_looks = args.show_batch or args.dry_run or args.profile
    if args.resume and not only_looks:
        folder.refuse_no_run(args.resume)
        held.enter_context(only_trainer(args.resume))
    begun = start.resolve(args.config, args.resume, args.init_from, flags)
    if begun.config.train.fast and begun.config.train.keep_memory:
        keep_freed_memory()
    print(f"{begun.config.about.summary or 'training'}; corpus {begun.config.data.corpus}")
    config, data = start.read_data(begun, flags)
    if args.show_batch:
        batch = wiring.build_batches(config, data, companions.models(begun.companions, device))
        return print(batch_table(batch(0), data.tokenizer))
    prepared = training.prepare(begun, config, data, device, args.init_from)
    config, step, batch, progress = prepared.config, prepared.step, prepared.batch, prepared.progress
    name = start.new_name(args.config) if args.config else args.init_from and f"from-{args.init_from.name}"
    path = args.resume or folder.new_folder(config.train.run, name, None if only_looks else held)
    report.describe(config, data, prepared.model, device, None if args.profile else path)
    if args.dry_run:
        return print(f"\n{to_toml(config)}")
    if config.train.compile:
        print(compile_step(step, batch(0)), flush=True)
    if args.profile:
        return print(profile(step, batch, args.profile, device, config.train.precision))
    try:
        training.run(prepared, path)
        report.finish(path, config, data, prepared.validation, device, progress, began)
    except Interrupted:
        print(f"interrupted at step {progress.step}, all saved; continue with: {TRAIN} --resume {path}")
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; continue from the last save with: {TRAIN} --resume {path}") from None
    except Diverged as e:
        raise Diverged(f"{e}; the last good checkpoint is {path / 'checkpoint' / 'latest.pt'}") from None
    return None


if __name__ == "__main__":
    sys.exit(main())

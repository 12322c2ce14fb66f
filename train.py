"""Train a model from a config: python train.py --config gpt-tiny

Any key of the config can be set by a flag, --section.key value; --help lists them all. --resume goes on with a run that was stopped;
--init-from starts a new run with the weights of another, or trains an adapter on them (--adapter.rank 8).
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minillm import run, run_folder
from minillm.config import to_toml
from minillm.datasets.batch import Batch
from minillm.datasets.batch_table import batch_table
from minillm.datasets.labels import ENDINGS
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import PairBatch, Pairs
from minillm.flags import Parser, add_flags, override
from minillm.models.base import count_parameters
from minillm.run_config import CONFIGS, RunConfig, load_config
from minillm.run_folder import Base, OpenRun
from minillm.tasks.base import Data
from minillm.text import TextModel, Translator
from minillm.text_encoders import EXAMPLE, Cloze
from minillm.training.allocator import keep_freed_memory
from minillm.training.checkpoint import fingerprint
from minillm.training.loop import Interrupted, Progress, train
from minillm.training.metrics import MetricsLog, read_metrics, save_plot, terminal_plot
from minillm.training.precision import seconds_per_pass
from minillm.training.profile import profile
from minillm.training.step import Diverged

MAY_CHANGE_ON_RESUME = ("train.max_steps", "train.eval_every", "train.save_every", "train.log_every", "train.patience")


def main(argv: list[str] | None = None) -> int:
    """Parse, build, go; the exit status."""
    args = parse(argv)
    flags = {name: value for name, value in vars(args).items() if "." in name}
    try:
        go(args, flags)
    except Interrupted:
        return 130
    except KeyboardInterrupt:
        print("\ninterrupted before anything was trained", file=sys.stderr)
        return 130
    except (ValueError, OSError, Diverged) as e:
        print(f"train.py: {e}", file=sys.stderr)
        return 2
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="NAME", help="a name in configs/ or a .toml file; starts a new run")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="folder of a run to go on with, from its latest checkpoint")
    parser.add_argument("--init-from", metavar="RUN", type=Path, help="folder of a run whose weights and tokenizer a new run starts with")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--show-batch", action="store_true", help="print the first batch, token by token, and stop")
    looks.add_argument("--dry-run", action="store_true", help="build everything, print the plan and stop before the first step")
    looks.add_argument("--profile", metavar="STEPS", type=int, help="take so many steps, print where their time goes, and stop")
    add_flags(parser, RunConfig)
    args = parser.parse(argv)
    if args.profile is not None and args.profile < 1:
        parser.error(f"--profile {args.profile}: expected a number of steps, 1 at least")
    if args.resume and (args.config or args.init_from):
        parser.error("--resume goes on with a run as it was configured; use --init-from RUN to start a new run from its weights")
    if not (args.config or args.resume or args.init_from):
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        parser.error(f"expected --config NAME (one of {known}), --resume RUN or --init-from RUN")
    return args


def go(args: argparse.Namespace, flags: dict[str, str]) -> None:
    """Everything between the command line and the summary."""
    began, device = time.monotonic(), run.find_device(args.device)
    config, saved = resolve(args, flags)
    if config.train.keep_memory:
        keep_freed_memory()
    print(f"{config.about.summary or 'training'}; corpus {config.data.corpus}")
    data = run.build_data(config, saved and saved["tokenizer"])
    config = run.limit_steps(config, data)
    batch = run.build_batches(config, data)
    if args.show_batch:
        return print(batch_table(batch(0), data.tokenizer))
    config = settle(config, data.tokenizer.vocab_size, batch, device)
    weights, base = starting_point(args, config, saved)
    model = run.build_model(config, data.tokenizer.vocab_size, device, weights)
    step, progress = run.build_step(config, model), Progress()
    if args.resume:
        step.load_state_dict(saved["step"])
        progress = Progress(**saved["progress"])
    name = Path(args.config).stem if args.config else args.init_from and f"from-{args.init_from.name}"
    path = args.resume or run_folder.new_folder(config.train.run, name)
    describe(config, data, model, device, path)
    if args.dry_run:
        return None
    if config.train.compile:
        print(step.compile(batch(0)), flush=True)
    if args.profile:
        return print(profile(step, batch, args.profile, device, config.train.precision))
    validation = run.build_validation(config, data)
    log = MetricsLog(path / "metrics.jsonl", progress.step)
    run_folder.write_readable(path, config, data.tokenizer)

    def save(name: str, progress: Progress) -> None:
        run_folder.save_run(path, name, config, data, step, progress, base)

    if not args.resume:
        save("latest", progress)
    try:
        train(config.train, step, batch, lambda: validation(model), save, log.write, progress)
    except Interrupted:
        print(f"interrupted at step {progress.step}, all saved; go on with: python train.py --resume {path}")
        raise
    except Diverged as e:
        raise Diverged(f"{e}; the last good checkpoint is {path / 'checkpoint' / 'latest.pt'}") from None
    return finish(path, config, data, device, progress, began)


def resolve(args: argparse.Namespace, flags: dict[str, str]) -> tuple[RunConfig, dict | None]:
    """The config of this run, and the checkpoint that it starts from."""
    if args.resume:
        saved = run_folder.read_run(args.resume, "latest")
        for name in flags:
            if name not in MAY_CHANGE_ON_RESUME:
                raise ValueError(f"--{name}: expected only {', '.join(MAY_CHANGE_ON_RESUME)} beside --resume; use --init-from")
        config = override(saved["config"], flags)
        if saved["progress"]["step"] >= config.train.max_steps:
            raise ValueError(f"{args.resume} has done its {config.train.max_steps} steps; raise --train.max_steps, or use --init-from")
        return config, saved
    if not args.init_from:
        return refuse_what_would_be_ignored(override(load_config(args.config), flags), flags, None), None
    saved = run_folder.read_best(args.init_from)
    base = load_config(args.config) if args.config else saved["config"]
    wrong = [name for name in flags if name.startswith(("model.", "tokenizer."))]
    if wrong:
        raise ValueError(f"--{wrong[0]}: model and tokenizer come from --init-from {args.init_from}; use --config to start with fresh ones")
    base = dataclasses.replace(base, model=saved["config"].model, tokenizer=saved["config"].tokenizer)
    if not args.config:
        base = dataclasses.replace(base, train=dataclasses.replace(base.train, run=""))
    return refuse_what_would_be_ignored(override(base, flags), flags, saved), saved


def refuse_what_would_be_ignored(config: RunConfig, flags: dict[str, str], saved: dict | None) -> RunConfig:
    """The config, unless it asks for an adapter of nothing, or a flag is for what is not there. Raises ValueError."""
    rank, ignored = config.adapter.rank, [name for name in flags if name.startswith("adapter.") and name != "adapter.rank"]
    of_muon = [name for name in flags if name in ("optim.muon_lr", "optim.momentum") and config.optim.kind != "muon"]
    if rank and saved is None:
        raise ValueError(f"adapter.rank = {rank}: expected --init-from RUN, since an adapter corrects what was learned; name a trained run")
    if rank and saved["config"].adapter.rank:
        raise ValueError(
            f"adapter.rank = {rank}: expected a run without an adapter in --init-from; name its base, or give --adapter.rank 0"
        )
    if ignored and not rank:
        raise ValueError(f"--{ignored[0]} would be ignored, since adapter.rank = 0 is no adapter; raise --adapter.rank")
    if of_muon:
        raise ValueError(f"--{of_muon[0]} would be ignored, since optim.kind = {config.optim.kind}; leave it out, or add --optim.kind muon")
    return config


def starting_point(args: argparse.Namespace, config: RunConfig, saved: dict | None) -> tuple[dict | None, Base | None]:
    """Weights for a model to begin with or to carry an adapter; for an adapter also the run that they are of."""
    if args.resume:
        return run_folder.base_weights(args.resume, saved), saved.get("base") and Base(**saved["base"])
    if not args.init_from:
        return None, None
    weights = run_folder.whole_weights(args.init_from, saved)
    return weights, Base(str(args.init_from.resolve()), fingerprint(weights)) if config.adapter.rank else None


def settle(config: RunConfig, vocab_size: int, batch: Callable[[int], Batch | PairBatch], device: str) -> RunConfig:
    """The config with train.precision "auto" replaced by what is faster on this machine, for now and for --resume."""
    if config.train.precision != "auto":
        return config
    model, faster = run.build_model(config, vocab_size, device), "fp32"
    if config.train.backward == "autograd" and any(True for _ in model.parameters()):
        seconds = seconds_per_pass(model, run.build_objective(config), batch(0))
        faster = min(seconds, key=seconds.__getitem__)
        print("forward and backward: " + ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in seconds.items()) + f"; taking {faster}")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision=faster))


def describe(config: RunConfig, data: Data, model: torch.nn.Module, device: str, path: Path) -> None:
    """The first lines: what is trained, on what, and what to expect."""
    about, n_parameters = config.about, count_parameters(model)
    n_trained = n_parameters - sum(p.numel() for p in model.parameters() if not p.requires_grad)
    ragged = data.labels or isinstance(data.train, Pairs)
    per_step = f"{'at most ' if ragged else ''}{config.train.batch_size * config.model.context_length:,}"
    print(to_toml(config))
    size = f"{n_parameters:,} parameters" if any(True for _ in model.parameters()) else "a table that grows as it counts"
    print(f"device {device}, {torch.get_num_threads()} threads, {config.train.precision}; {size}")
    if n_trained < n_parameters:
        print(f"{n_trained:,} of them are trained, {100 * n_trained / n_parameters:.2f} %; the others are frozen")
    print(f"{len(data.train.ids):,} tokens to train on, {len(data.val.ids):,} to validate on; {per_step} tokens a step")
    n_answers = len(ENDINGS) if data.labels else data.tokenizer.vocab_size
    print(f"a uniform guess has loss ln {n_answers} = {math.log(n_answers):.3f}")
    if about.expected_loss:
        print(f"expected, as configured in its file: validation loss {about.expected_loss:.3f} after about {about.expected_seconds:.0f} s")
    if data.val_nats is not None:
        print(f"the source itself has loss {data.val_nats / (len(data.val.ids) - 1):.3f} on the validation text: no model can do better")
    print(f"run folder {path}", flush=True)


def finish(path: Path, config: RunConfig, data: Data, device: str, progress: Progress, began: float) -> None:
    """Curves, the last figures, a sample, and where everything is."""
    rows = read_metrics(path / "metrics.jsonl")
    names = {"loss": "training loss", "val_loss": "validation loss"}
    curves = {title: [(row["step"], row[name]) for row in rows if name in row] for name, title in names.items()}
    plotted = save_plot(curves, path / "loss.png")
    opened = run_folder.open_run(path, device)
    last = [row for row in rows if "val_loss" in row][-1]
    summary = {"parameters": count_parameters(opened.text.model), "steps": progress.step, "best_val_loss": progress.best_loss}
    summary["best_step"] = opened.step
    summary |= {name: value for name, value in last.items() if name != "step"}
    if data.test is not None:
        test = run.build_validation(config, data, "test")(opened.text.model)
        summary |= {f"test_{name.removeprefix('val_')}": value for name, value in test.items()}
    summary |= {"train_seconds": round(progress.seconds, 1), "total_seconds": round(time.monotonic() - began, 1)}
    (path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(terminal_plot(curves))
    for name, value in summary.items():
        print(f"{name:>18}  {value:.4f}" if isinstance(value, float) else f"{name:>18}  {value}")
    if "regret" in last:
        print(f"{'regret':>18}  {100 * last['regret'] / last['source_loss']:.1f} % of the source's own loss, which nothing can take away")
    if not isinstance(opened.text, TextModel):
        return print(demonstrate(opened))
    sampling, limit = config.sampling, min(config.text.max_new_tokens, config.model.context_length)
    [sample] = opened.text.generate([config.text.prompt], sampling, max_new_tokens=limit, seeds=[config.train.seed])
    print(f"\na sample ({opened.text.sampler(sampling, [config.text.prompt])}):\n{sample.prompt}{opened.text.joint}{sample.text}\n")
    print(f"everything is in {path}: checkpoint/ config.toml tokenizer.json metrics.jsonl summary.json{' loss.png' if plotted else ''}")
    how = "--attention --prompt \"...\"" if isinstance(opened.text, Translator) else "--top-p 0.9"
    print(f"write more with: python sample.py --run {path} {how}")


def demonstrate(opened: OpenRun) -> str:
    """What an encoder can do now, and the command for more."""
    text, prompt = opened.text, opened.config.text.prompt
    if not isinstance(text, Cloze):
        return f"\neverything is in {opened.path}; tell more with: python sample.py --run {opened.path} --classify TEXT"
    fits = MASK in prompt and len(text.encode(prompt)) <= text.model.context_length
    filled = f"\n{prompt}\n{text.show(prompt, 3)}\n" if fits else ""
    return f"{filled}\neverything is in {opened.path}; fill in more with: python sample.py --run {opened.path} --fill \"{EXAMPLE}\""


if __name__ == "__main__":
    sys.exit(main())

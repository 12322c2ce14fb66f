"""Train a model from a config. Any key of the config can be set by a flag, --section.key value.

--resume goes on with a run that was stopped; --init-from starts a new run with the weights of another, or trains an adapter
on them (--adapter.rank 8).
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from minillm import run, run_folder, run_start, sizing
from minillm.commands import spelled
from minillm.config import brief, to_toml
from minillm.datasets.atomic import write_atomically
from minillm.datasets.batch import Batch
from minillm.datasets.batch_table import batch_table
from minillm.datasets.labels import ENDINGS
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import PairBatch, Pairs
from minillm.datasets.tokens import TokenStream
from minillm.expectations import announce, as_expected
from minillm.flags import Parser, add_flags, override
from minillm.memorization import overfitted, recite, recited
from minillm.models.base import count_parameters
from minillm.os_errors import sentence
from minillm.out_of_memory import told_in_a_sentence
from minillm.run_config import CONFIGS, AboutConfig, RunConfig, load_config
from minillm.run_folder import OpenRun
from minillm.run_lock import only_trainer
from minillm.tasks.base import Data
from minillm.text import TextModel, Translator
from minillm.text_encoders import EXAMPLE, Cloze
from minillm.training.allocator import keep_freed_memory
from minillm.training.curves import curves_of, save_plot, source_loss, terminal_plot
from minillm.training.interruption import Interrupted
from minillm.training.loop import Progress, train
from minillm.training.metrics import MetricsLog, read_metrics, told
from minillm.training.precision import seconds_per_pass
from minillm.training.profile import profile
from minillm.training.step import Diverged

TRAIN, SAMPLE = spelled("train"), spelled("sample")
EXAMPLES = f"""\
{TRAIN} --config gpt-tiny                           # the first run: two minutes on two CPU cores
{TRAIN} --config gpt-tiny --data.corpus my.txt      # on your own text
{TRAIN} --config gpt-tiny --model.n_layers 2        # any key of a config is a flag
{TRAIN} --config gpt-tiny --show-batch              # token -> target, before you wait
{TRAIN} --resume runs/gpt-tiny                      # go on with a run that was stopped
{TRAIN} --config lora-tiny --init-from runs/gpt-tiny"""
OFTEN = [
    *("config", "resume", "init_from", "device", "show_batch", "dry_run", "profile"),
    *("data.corpus", "train.run", "train.max_steps", "train.batch_size", "train.seed", "optim.lr"),
]
LOWER = "lower train.batch_size or the sizes in [model], or raise train.n_micro_batches"
MAY_CHANGE_ON_RESUME = (
    *("train.max_steps", "train.eval_every", "train.save_every", "train.log_every", "train.patience"),
    "data.corpus",  # the same text in another place
)


def main(argv: list[str] | None = None) -> int:
    """Parse, build, go; the exit status."""
    args = parse(argv)
    flags = {name: value for name, value in vars(args).items() if "." in name}
    try:
        refuse_several_processes()
        with told_in_a_sentence(LOWER, limited=run.find_device(args.device) == "cpu"):
            go(args, flags)
    except Interrupted as e:
        return e.status
    except KeyboardInterrupt as e:
        print(f"\n{e if e.args else 'interrupted before anything was trained'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, Diverged) as e:
        print(f"{TRAIN.removeprefix('python ')}: {sentence(e)}", file=sys.stderr)
        return 2
    return 0


def refuse_several_processes() -> None:
    """Raise ValueError where torchrun started several processes, which would all train the same run."""
    n = os.environ.get("WORLD_SIZE", "1")
    if n != "1":
        raise ValueError(f"WORLD_SIZE = {n}: expected 1, since this would train {n} equal runs; start train.py without torchrun")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
    examples = f"{EXAMPLES}\n\nconfigs:\n{textwrap.fill(known, 100, break_on_hyphens=False)}"
    parser = Parser(prog=TRAIN.removeprefix("python "), description=__doc__, examples=examples, often=OFTEN)
    parser.add_argument("--config", metavar="NAME", help="the name of a config, or a .toml file; starts a new run")
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
        parser.error(f"expected --config NAME (one of {known}), --resume RUN or --init-from RUN")
    return args


def go(args: argparse.Namespace, flags: dict[str, str]) -> None:
    """Everything between the command line and the summary; meanwhile no other process may train the run."""
    with ExitStack() as held:
        work(args, flags, held)


def work(args: argparse.Namespace, flags: dict[str, str], held: ExitStack) -> None:
    """See `go`; `held` keeps the lock on the folder of the run, unless nothing is written there."""
    began, device = time.monotonic(), run.find_device(args.device)
    only_looks = args.show_batch or args.dry_run or args.profile
    if args.resume and not only_looks:
        run_folder.refuse_no_run(args.resume)
        held.enter_context(only_trainer(args.resume))
    config, saved = resolve(args, flags)
    if config.train.keep_memory:
        keep_freed_memory()
    original = load_config(args.config) if args.config else saved["config"]
    if args.init_from:
        original = dataclasses.replace(original, model=config.model, tokenizer=config.tokenizer)
        config = config if args.config else sizing.reopen(config, flags)
    config = as_expected(config, original, fresh=not args.init_from)
    print(f"{config.about.summary or 'training'}; corpus {config.data.corpus}")
    if args.resume:
        data = run_start.data_again(args.resume, saved, config)
    else:
        data = run.build_data(config, saved and saved["tokenizer"])
        config, data = sizing.fit(config, data, flags, saved and saved["tokenizer"])
    config = sizing.set_cadence(run.limit_steps(as_expected(config, original), data), data)
    batch = run.build_batches(config, data)
    if args.show_batch:
        return print(batch_table(batch(0), data.tokenizer))
    config = settle(config, data.tokenizer.vocab_size, batch, device)
    weights, base = run_start.starting_point(args.resume, args.init_from, config, saved)
    model = run.build_model(config, data.tokenizer.vocab_size, device, weights)
    step, progress = run.build_step(config, model), Progress()
    if args.resume:
        step.load_state_dict(saved["step"])
        progress = Progress(**saved["progress"])
    name = run_start.new_name(args.config) if args.config else args.init_from and f"from-{args.init_from.name}"
    path = args.resume or run_folder.new_folder(config.train.run, name, None if only_looks else held)
    describe(config, data, model, device, None if args.profile else path)
    if args.dry_run:
        return print(f"\n{to_toml(config)}")
    if config.train.compile:
        print(step.compile(batch(0)), flush=True)
    if args.profile:
        return print(profile(step, batch, args.profile, device, config.train.precision))
    validation = run.build_validation(config, data).sampled(config.train.eval_tokens)
    log, corpus = MetricsLog(path / "metrics.jsonl", progress.step), run_start.corpus_hash(data)
    run_folder.write_readable(path, config, data.tokenizer)

    def save(name: str, progress: Progress) -> None:
        run_folder.save_run(path, name, config, data, corpus, step, progress, base)

    save("latest", progress)
    try:
        train(config.train, step, batch, lambda: validation(model), save, log.write, progress)
        finish(path, config, data, device, progress, began)
    except Interrupted:
        print(f"interrupted at step {progress.step}, all saved; go on with: {TRAIN} --resume {path}")
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; go on from the last save with: {TRAIN} --resume {path}") from None
    except Diverged as e:
        raise Diverged(f"{e}; the last good checkpoint is {path / 'checkpoint' / 'latest.pt'}") from None
    return None


def resolve(args: argparse.Namespace, flags: dict[str, str]) -> tuple[RunConfig, dict | None]:
    """The config of this run, and the checkpoint that it starts from."""
    if args.resume:
        saved = run_folder.read_run(args.resume, "latest")
        run_start.refuse_an_edited_config(args.resume, saved)
        for name in flags:
            if name not in MAY_CHANGE_ON_RESUME:
                raise ValueError(f"--{name}: expected only {', '.join(MAY_CHANGE_ON_RESUME)} beside --resume; use --init-from")
        config = override(saved["config"], flags)
        if saved["progress"]["step"] >= config.train.max_steps and is_summed_up(args.resume, saved["progress"]["step"]):
            raise ValueError(f"{args.resume} has done its {config.train.max_steps} steps; raise --train.max_steps, or use --init-from")
        return config, saved
    if not args.init_from:
        return refuse_what_would_be_ignored(override(run_start.new_config(args.config), flags), flags, None), None
    saved = run_folder.read_best(args.init_from)
    config = run_start.config_from(args.init_from, saved, args.config, flags)
    return refuse_what_would_be_ignored(config, flags, saved), saved


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


def describe(config: RunConfig, data: Data, model: torch.nn.Module, device: str, path: Path | None) -> None:
    """The first lines: what is trained, on what, and what to expect."""
    n_parameters = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ragged = data.labels or isinstance(data.train, Pairs)
    per_step = f"{'at most ' if ragged else ''}{config.train.batch_size * config.model.context_length:,}"
    print(brief(dataclasses.replace(config, about=AboutConfig())))
    what = f"{n_parameters:,} parameters" if n_parameters else "a table to be counted"
    print(f"device {device}, {torch.get_num_threads()} threads, {config.train.precision}; {what}")
    if n_trained < n_parameters:
        print(f"{n_trained:,} of them are trained, {100 * n_trained / n_parameters:.2f} %; the others are frozen")
    print(f"{len(data.train.ids):,} tokens to train on, {len(data.val.ids):,} to validate on; {per_step} tokens a step")
    n_answers = len(ENDINGS) if data.labels else data.tokenizer.vocab_size
    print(f"a uniform guess has loss ln {n_answers} = {math.log(n_answers):.3f}")
    if expected := announce(config):
        print(expected)
    if data.val_nats is not None:
        print(f"the source itself has loss {data.val_nats / (len(data.val.ids) - 1):.3f} on the validation text: no model can do better")
    print(sizing.plan(config, data))
    if path:
        print(f"run folder {path}; its config.toml holds every key", flush=True)


def is_summed_up(path: Path, step: int) -> bool:
    """Whether the run has the summary of this step; one that was killed between its last save and its summary has not."""
    summary = path / "summary.json"
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["steps"] == step


def finish(path: Path, config: RunConfig, data: Data, device: str, progress: Progress, began: float) -> None:
    """Curves, the last figures, a sample, and where everything is."""
    rows = read_metrics(path / "metrics.jsonl")
    curves = curves_of(rows)
    plotted = save_plot(curves, path / "loss.png", source_loss(rows))
    opened = run_folder.open_run(path, device)
    model = opened.text.model
    val = run.build_validation(config, data)(model)  # all of it, where training may have looked at a part
    summary = {"parameters": count_parameters(model), "steps": progress.step, "best_step": opened.step, **val}
    if data.test is not None:
        test = run.build_validation(config, data, "test")(model)
        summary |= {f"test_{name.removeprefix('val_')}": value for name, value in test.items()}
    summary |= {"train_seconds": round(progress.seconds, 1), "total_seconds": round(time.monotonic() - began, 1)}
    write_atomically(path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    print(terminal_plot(curves))
    for name, value in told(summary).items():
        print(f"{name:>18}  {value}")
    if progress.step < config.train.max_steps:
        print(f"stopped early at step {progress.step:,}, after {progress.n_worse} validations without a new best")
    if not isinstance(opened.text, TextModel):
        return print(*filter(None, (demonstrate(opened), overfitted(rows, opened.step))), sep="\n")
    sampling, limit = config.sampling, min(config.text.max_new_tokens, config.model.context_length)
    [sample] = opened.text.generate([config.text.prompt], sampling, max_new_tokens=limit, seeds=[config.train.seed])
    print(f"\na sample ({opened.text.sampler(sampling, [config.text.prompt])}):\n{sample.prompt}{opened.text.joint}{sample.text}\n")
    print(f"everything is in {path}: checkpoint/ config.toml tokenizer.json metrics.jsonl summary.json{' loss.png' if plotted else ''}")
    how = "--attention --prompt \"...\"" if isinstance(opened.text, Translator) else "--top-p 0.9"
    print(f"write more with: {SAMPLE} --run {path} {how}")
    if remark := learned_by_heart(opened, data) or overfitted(rows, opened.step):
        print(remark)


def learned_by_heart(opened: OpenRun, data: Data) -> str:
    """A sentence, if the best model knows its training text by heart."""
    if not isinstance(data.train, TokenStream) or run.passes(opened.config, data) <= 1:
        return ""
    train, val = (recite(opened.text.model, part, opened.config.model.context_length, data.documents) for part in (data.train, data.val))
    return recited(train, val)


def demonstrate(opened: OpenRun) -> str:
    """What an encoder can do now, and the command for more."""
    text, prompt = opened.text, opened.config.text.prompt
    if not isinstance(text, Cloze):
        return f"\neverything is in {opened.path}; tell more with: {SAMPLE} --run {opened.path} --classify TEXT"
    fits = MASK in prompt and len(text.encode(prompt)) <= text.model.context_length
    filled = f"\n{prompt}\n{text.show(prompt, 3)}\n" if fits else ""
    return f"{filled}\neverything is in {opened.path}; fill in more with: {SAMPLE} --run {opened.path} --fill \"{EXAMPLE}\""


if __name__ == "__main__":
    sys.exit(main())

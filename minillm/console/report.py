"""Printed report of a training: a plan before the first step; figures, curves and a sample after the last.

Everything here prints. The figures are also kept in summary.json, beside the log that they come from. Read `runs/folder.py` before.
"""

import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from torch import nn

from minillm.commands import spelled
from minillm.config.loading import brief
from minillm.datasets.labels import ENDINGS
from minillm.datasets.masking import MASK
from minillm.datasets.pairs import Pairs
from minillm.datasets.tokens import TokenStream
from minillm.evaluation.memorization import count_memorized, memorization_remark, overfitting_remark
from minillm.models.language_model import count_parameters
from minillm.run_config import AboutConfig, RunConfig
from minillm.runs import folder, sizing, wiring
from minillm.runs.expectations import announce
from minillm.runs.folder import OpenRun
from minillm.system.atomic import write_atomically
from minillm.tasks.task import Data
from minillm.text.cloze import EXAMPLE, Cloze
from minillm.text.model import TextModel
from minillm.text.translator import Translator
from minillm.training.curves import curves_of, save_plot, source_loss, terminal_plot
from minillm.training.loop import Progress
from minillm.training.metrics import read_metrics, told

SAMPLE = spelled("sample")


def describe(config: RunConfig, data: Data, model: nn.Module, device: str, path: Path | None) -> None:
    """Print what is trained, on what, and what to expect."""
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
        print(
            f"the source itself has loss {data.val_nats / (len(data.val.ids) - 1):.3f} on the validation text: no model can do better"
        )
    print(sizing.plan(config, data))
    if path:
        print(f"run folder {path}; its config.toml holds every key", flush=True)


def finish(path: Path, config: RunConfig, data: Data, device: str, progress: Progress, began: float) -> None:
    """Print curves, the last figures, a sample and where everything is; keep the figures in summary.json."""
    rows = read_metrics(path / "metrics.jsonl")
    curves = curves_of(rows)
    plotted = save_plot(curves, path / "loss.png", source_loss(rows))
    opened = folder.open_run(path, device)
    model = opened.text.model
    val = wiring.build_validation(config, data)(model)  # all of it, where training may have looked at a part
    summary = {"parameters": count_parameters(model), "steps": progress.step, "best_step": opened.step, **val}
    if data.test is not None:
        test = wiring.build_validation(config, data, "test")(model)
        summary |= {f"test_{name.removeprefix('val_')}": value for name, value in test.items()}
    summary |= {"train_seconds": round(progress.seconds, 1), "total_seconds": round(time.monotonic() - began, 1)}
    write_atomically(path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    print(terminal_plot(curves))
    for name, value in told(summary).items():
        print(f"{name:>18}  {value}")
    if progress.step < config.train.max_steps:
        print(f"stopped early at step {progress.step:,}, after {progress.n_worse} validations without a new best")
    if not isinstance(opened.text, TextModel):
        return print(*filter(None, (demonstrate(opened), overfitting_remark(rows, opened.step))), sep="\n")
    sampling, limit = config.sampling, min(config.text.max_new_tokens, config.model.context_length)
    [sample] = opened.text.generate([config.text.prompt], sampling, max_new_tokens=limit, seeds=[config.train.seed])
    print(
        f"\na sample ({opened.text.sampler(sampling, [config.text.prompt])}):\n{sample.prompt}{opened.text.joint}{sample.text}\n"
    )
    print(
        f"everything is in {path}: checkpoint/ config.toml tokenizer.json metrics.jsonl summary.json{' loss.png' if plotted else ''}"
    )
    how = '--attention --prompt "..."' if isinstance(opened.text, Translator) else "--top-p 0.9"
    print(f"write more with: {SAMPLE} --run {path} {how}")
    if remark := learned_by_heart(opened, data) or overfitting_remark(rows, opened.step):
        print(remark)


def learned_by_heart(opened: OpenRun, data: Data) -> str:
    """A sentence, if the best model knows its training text by heart."""
    if not isinstance(data.train, TokenStream) or wiring.passes(opened.config, data) <= 1:
        return ""
    train, val = (
        count_memorized(opened.text.model, part, opened.config.model.context_length, data.documents)
        for part in (data.train, data.val)
    )
    return memorization_remark(train, val)


def demonstrate(opened: OpenRun) -> str:
    """An example of the encoder at work, and the command for more."""
    text, prompt = opened.text, opened.config.text.prompt
    if not isinstance(text, Cloze):
        return f"\neverything is in {opened.path}; tell more with: {SAMPLE} --run {opened.path} --classify TEXT"
    fits = MASK in prompt and len(text.encode(prompt)) <= text.model.context_length
    filled = f"\n{prompt}\n{text.show(prompt, 3)}\n" if fits else ""
    return (
        f'{filled}\neverything is in {opened.path}; fill in more with: {SAMPLE} --run {opened.path} --fill "{EXAMPLE}"'
    )

"""Printed report of a training: the plan before the first step; curves, final numbers and a sample after the last one.

The final numbers are also saved in summary.json, next to the log. Read before: `runs/folder.py`.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from minillm.adapters.qlora import Frozen4Bit
from minillm.commands import spelled
from minillm.config.loading import brief
from minillm.evaluation.memorization import overfitting_remark
from minillm.evaluation.validation import Validation
from minillm.models.language_model import count_parameters
from minillm.runs import folder, sizing
from minillm.runs.config import RunConfig
from minillm.runs.expectations import announce
from minillm.system.atomic import write_atomically
from minillm.tasks.settings import AboutConfig
from minillm.tasks.task import Data
from minillm.text.model import TextModel
from minillm.training.curves import curves_of, save_plot, terminal_plot
from minillm.training.loop import Progress
from minillm.training.metrics import read_metrics, told

SAMPLE = spelled("sample")


def describe(config: RunConfig, data: Data, model: nn.Module, device: str, path: Path | None) -> None:
    """Print the config, the model's size, the data, and the expected results."""
    n_packed = sum(module.n_weights for module in model.modules() if isinstance(module, Frozen4Bit))
    n_parameters = sum(p.numel() for p in model.parameters()) + n_packed
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    extent = config.task.extent(config.of_text, data)
    most = f"{config.train.batch_size * config.of_text.model.context_length:,}"
    per_step = most if extent.n_windows else f"at most {most}"
    print(brief(dataclasses.replace(config, about=AboutConfig())))
    what = f"{n_parameters:,} parameters" if n_parameters else "a table of counts instead of parameters"
    print(f"device {device}, {torch.get_num_threads()} threads, {config.train.precision}; {what}")
    if n_trained < n_parameters:
        print(f"{n_trained:,} of them are trained, {100 * n_trained / n_parameters:.2f} %; the others are frozen")
    print(f"{len(data.train.ids):,} tokens to train on, {len(data.val.ids):,} to validate on; {per_step} tokens a step")
    print(f"a uniform guess has loss ln {extent.n_answers} = {math.log(extent.n_answers):.3f}")
    if expected := announce(config):
        print(expected)
    if data.val_nats is not None:
        print(
            f"the source itself has loss {data.val_nats / (len(data.val.ids) - 1):.3f} on the validation text: "
            "no model can do better"
        )
    print(sizing.plan(config, data))
    if path:
        print(f"run folder {path}; its config.toml holds every key", flush=True)


def finish(
    path: Path,
    config: RunConfig,
    data: Data,
    validation: Callable[[str], Validation],
    device: str,
    progress: Progress,
    began: float,
) -> None:
    """Print the curves, the final numbers, a sample and the paths of all files; save the numbers in summary.json."""
    rows = read_metrics(path / "metrics.jsonl")
    curves = curves_of(rows)
    opened = folder.open_run(path, device)
    if isinstance(opened.text, TextModel):
        opened.text.fast = config.train.fast
    model = opened.text.model
    val = validation("val")(model)  # on the whole part; during training it may be a sample
    summary = {"parameters": count_parameters(model), "steps": progress.step, "best_step": opened.step, **val}
    if data.test is not None:
        test = validation("test")(model)
        summary |= {f"test_{name.removeprefix('val_')}": value for name, value in test.items()}
    summary |= {"train_seconds": round(progress.seconds, 1), "total_seconds": round(time.monotonic() - began, 1)}
    write_atomically(path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    plotted = save_plot(curves, path / "loss.png", val.get("source_loss"))
    print(terminal_plot(curves))
    for name, value in told(summary).items():
        print(f"{name:>18}  {value}")
    if progress.step < config.train.max_steps:
        print(f"stopped early at step {progress.step:,}, after {progress.n_worse} validations without a new best")
    shown = config.task.demonstrate(config.of_text, data, opened.text)
    if shown.example:
        print(f"\n{shown.example}\n")
    files = f"checkpoint/ config.toml tokenizer.json metrics.jsonl summary.json{' loss.png' if plotted else ''}"
    print(f"everything is in {path}: {files}")
    print(f"{shown.more} with: {SAMPLE} --run {path} {shown.flags}")
    if remark := shown.remark or overfitting_remark(rows, opened.step):
        print(remark)

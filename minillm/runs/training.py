"""A whole training, from its start to the last checkpoint: the common part of train.py and `minillm.train`.

Read before: `start`, `training/loop.py`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from minillm.evaluation.validation import Validation
from minillm.runs import companions, folder, start, wiring
from minillm.runs.config import RunConfig
from minillm.runs.folder import Base
from minillm.runs.start import Start
from minillm.tasks.task import Batches, Data
from minillm.training.counting import CountingStep
from minillm.training.loop import Progress, train
from minillm.training.metrics import MetricsLog
from minillm.training.step import GradientStep


class Prepared(NamedTuple):
    """A training that is ready to begin or to resume."""

    config: RunConfig  # with each "auto" replaced by the choice
    data: Data
    batch: Batches
    model: nn.Module
    step: GradientStep | CountingStep
    validation: Callable[[str], Validation]
    progress: Progress
    base: Base | None  # the run of an adapter's base weights
    companions: Mapping[str, str]  # fingerprints of the frozen models beside it, by their key of [task]


def prepare(begun: Start, config: RunConfig, data: Data, device: str, init_from: Path | None = None) -> Prepared:
    """Build the model with its initial weights, and its step. Raises ValueError for invalid settings."""
    frozen = companions.models(begun.companions, device)
    batch = wiring.build_batches(config, data, frozen)
    weights, base = start.starting_point(begun.resumed, init_from, config, begun.saved)
    model = wiring.build_model(config, data.tokenizer.vocab_size, device, weights)
    config, step, validation = wiring.build_training(config, data, model, frozen)
    progress = Progress()
    if not begun.resumed:
        config.adapter.begin(model, data.tokenizer)
    else:
        step.load_state_dict(begun.saved["step"])
        progress = Progress(**begun.saved["progress"])
    beside = companions.identities(begun.companions)
    return Prepared(config, data, batch, model, step, validation, progress, base, beside)


def run(prepared: Prepared, path: Path) -> None:
    """Train to the end or an early stop; write checkpoints and metrics to the folder `path`. Raises as `loop.train`."""
    config, data, batch, model, step, validation, progress, base, beside = prepared
    sampled = validation("val").sampled(config.train.eval_tokens)
    log, corpus = MetricsLog(path / "metrics.jsonl", progress.step), start.corpus_hash(data)
    folder.write_readable(path, config, data.tokenizer)

    def save(name: str, progress: Progress) -> None:
        folder.save_run(path, name, config, data, corpus, step, progress, base, beside)

    save("latest", progress)
    train(config.train, step, batch, lambda: sampled(model), save, log.write, progress)

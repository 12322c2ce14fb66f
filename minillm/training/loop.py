"""The training loop: calls the step, and decides when to evaluate, log, save and stop.

Pre-training, fine-tuning, distillation and preference learning all use this function; they differ in the step's
objective and in the source of the batches. Batch i is a function of i, so a stopped run resumes with the next number.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tqdm import tqdm

from minillm.config.fields import AtLeast, Count, Positive, Seed, validate
from minillm.datasets.batch import Batch
from minillm.training.interruption import Interrupted, interruptions
from minillm.training.metrics import PlainLines, told
from minillm.training.step import Step

N_VALIDATIONS = 8  # least number of validations in a run, if eval_every is not set
PLAIN = "{n_fmt} of {total_fmt} steps, {elapsed} gone, {remaining} left{postfix}"  # if stderr is not a terminal
SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class TrainConfig:
    """Number of training steps, batch size, and how often to validate, save and log."""

    run: str = ""  # folder of the run; empty: runs/ and the config's name
    seed: Seed = 0  # of the weights, the order of the batches and dropout
    max_steps: Positive = 1000  # optimizer updates
    batch_size: Positive = 16  # rows of model.context_length tokens in one update
    n_micro_batches: Positive = 1  # parts that a batch is cut into to save memory; the gradient stays the same
    grad_clip: Annotated[float, AtLeast(0)] = 1.0  # largest norm of the gradient; 0: no limit
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of matrix products; auto: the faster one in a short trial
    fast: bool = True  # use the fast twins of minillm/speed while their signatures hold; false: only the plain code
    compile: bool = False  # fast: compile forward and backward with torch.compile, which takes a minute or more
    keep_memory: bool = True  # fast: reuse memory that a step frees instead of returning it to the system (needs glibc)
    log_every: Positive = 10  # steps between two rows of metrics.jsonl
    eval_every: Count = 0  # steps between validations; 0: once per pass over the text, at least 8 times per run
    eval_tokens: Count = 0  # validation tokens used to choose the best weights; 0: as many as take 2 % of the time
    save_every: Positive = 200  # steps between two checkpoints
    patience: Annotated[int, AtLeast(-1)] = (
        -1  # stop after this many validations in a row without a new best; 0: never; -1: 8 if the text is small
    )

    def __post_init__(self) -> None:
        validate(self)
        if self.compile and not self.fast:
            raise ValueError("train.compile = true: expected false beside train.fast = false; change one of the two")
        if self.n_micro_batches > self.batch_size:
            raise ValueError(
                f"train.n_micro_batches = {self.n_micro_batches}: expected at most train.batch_size = "
                f"{self.batch_size}, since each part needs at least one row; lower it"
            )

    def steps_between_validations(self) -> int:
        """`eval_every`; if it is 0, a number of steps that gives a run at least `N_VALIDATIONS` validations."""
        return self.eval_every or max(1, self.max_steps // N_VALIDATIONS)


@dataclass
class Progress:
    """Progress of a run: everything that the loop needs to resume."""

    step: int = 0
    best_loss: float = math.inf
    n_worse: int = 0  # validations since the best one
    seconds: float = 0.0  # time spent in this loop, all resumptions included

    def stopped_early(self, patience: int) -> bool:
        return 0 < patience <= self.n_worse


def train(
    config: TrainConfig,
    step: Step,
    batch: Callable[[int], Batch],
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[str, Progress], None],
    log: Callable[[dict[str, Any]], None],
    progress: Progress,
) -> Progress:
    """Train from `progress` to `config.max_steps` or an early stop.

    `save("latest" | "best", progress)` writes a checkpoint, `log(row)` a row of metrics. Raises Interrupted after a
    signal, when the current step is finished and saved. Errors of the step or the evaluation propagate, and nothing is
    saved after them.
    """
    began, eval_every = time.monotonic() - progress.seconds, config.steps_between_validations()
    with interruptions() as asked_to_stop, _bar(config, progress) as bar:
        while progress.step < config.max_steps and not progress.stopped_early(config.patience):
            metrics, signum = step(batch(progress.step)), asked_to_stop()
            progress.step += 1
            progress.seconds = time.monotonic() - began
            last = progress.step == config.max_steps
            if progress.step % config.log_every == 0 or last or progress.step == 1:
                log({"step": progress.step, "seconds": round(progress.seconds, 3), **metrics})
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", tok_s=_thousands(bar, metrics["tokens"]), refresh=False)
            bar.update()
            if progress.step % eval_every == 0 or last:
                _evaluate(evaluate, save, log, progress, bar)
            done = last or progress.stopped_early(config.patience)
            if progress.step % config.save_every == 0 or done or signum:
                progress.seconds = time.monotonic() - began
                save("latest", progress)
            if signum and not done:
                raise Interrupted(signum)
    return progress


def _evaluate(
    evaluate: Callable[[], dict[str, float]],
    save: Callable[[str, Progress], None],
    log: Callable[[dict[str, Any]], None],
    progress: Progress,
    bar: tqdm,
) -> None:
    metrics = evaluate()
    log({"step": progress.step, **metrics})
    better = metrics["val_loss"] < progress.best_loss
    progress.best_loss = min(progress.best_loss, metrics["val_loss"])
    progress.n_worse = 0 if better else progress.n_worse + 1
    if better:
        save("best", progress)
    bar.write(f"step {progress.step:>6}  " + "  ".join(f"{name} {value}" for name, value in told(metrics).items()))
    sys.stdout.flush()  # if both go to one file, lines of stdout and stderr stay in order


def _thousands(bar: tqdm, tokens_per_step: float) -> str:
    rate = bar.format_dict["rate"] or (bar.n / bar.format_dict["elapsed"] if bar.format_dict["elapsed"] else 0)
    return f"{rate * tokens_per_step / 1000:.1f}k"


def _bar(config: TrainConfig, progress: Progress) -> tqdm:
    how: dict[str, Any] = {"total": config.max_steps, "initial": progress.step, "unit": "step", "smoothing": 0.05}
    if sys.stderr.isatty() or "ipykernel" in sys.modules:  # a terminal or a notebook can overwrite a line
        return tqdm(**how, dynamic_ncols=True, mininterval=0.5)
    return tqdm(**how, file=PlainLines(sys.stderr), bar_format=PLAIN, mininterval=SECONDS_BETWEEN_LINES)

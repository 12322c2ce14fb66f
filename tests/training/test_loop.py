"""The training loop: when it evaluates, logs, saves and stops; interruption changes none of it."""

import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.training import interruption, loop
from minillm.training.interruption import Interrupted
from minillm.training.loop import Progress, TrainConfig, train

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
few = settings(max_examples=40)
STEP, EVALUATION, PAUSE = 2.0, 7.0, 1000.0  # seconds


class Training:
    """A training run without a model that records the loop's calls; `losses`: results of its evaluations, in order."""

    def __init__(self, config: TrainConfig, losses: list[float], stops: dict[tuple[str, int], signal.Signals]):
        """`stops`: (kind of call, step) -> the signal that arrives during that call."""
        self.config, self.losses, self.stops = config, losses, stops
        self.asked, self.learned, self.evaluated, self.rows, self.interrupted = [], [], [], [], []
        self.saved: list[tuple[str, Progress]] = []
        self.progress, self.now = Progress(), 0.0

    def _meanwhile(self, what: str, step: int) -> None:
        if (what, step) in self.stops:
            signal.raise_signal(self.stops.pop((what, step)))

    def batch(self, i: int) -> int:
        self.asked.append(i)
        return i

    def step(self, i: int) -> dict[str, float]:
        self.learned.append(i + 1)
        self.now += STEP
        self._meanwhile("step", i + 1)
        return {"loss": 1 / (i + 1), "tokens": 11}

    def evaluate(self) -> dict[str, float]:
        self.evaluated.append(self.progress.step)
        self.now += EVALUATION
        self._meanwhile("evaluate", self.progress.step)
        return {"val_loss": self.losses[len(self.evaluated) - 1]}

    def save(self, name: str, progress: Progress) -> None:
        self.saved.append((name, replace(progress)))
        self._meanwhile("save", progress.step)

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        self._meanwhile("log", row["step"])

    def latest(self) -> list[Progress]:
        return [progress for name, progress in self.saved if name == "latest"]

    def run(self) -> "Training":
        """Run to the end, resuming from the latest checkpoint after every stop."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))
            patch.setattr(interruption, "REPEATED", math.inf)  # a second signal before the stop changes nothing
            while True:
                try:
                    train(self.config, self.step, self.batch, self.evaluate, self.save, self.log, self.progress)
                    return self
                except Interrupted as e:
                    self.interrupted.append((self.progress.step, e.status))
                    self.progress = replace(self.latest()[-1])
                    self.now += PAUSE


def by_hand(config: TrainConfig, losses: list[float]) -> tuple[int, list[int], list[int]]:
    """The last step, the steps with an evaluation, and those with a new best."""
    evaluated, best = [], [0]  # indices of evaluations
    for step in range(1, config.max_steps + 1):
        if step % config.eval_every == 0 or step == config.max_steps:
            evaluated.append(step)
            n = len(evaluated)
            if losses[n - 1] < min((loss for loss in losses[: n - 1] if loss == loss), default=math.inf):
                best.append(n)
            if config.patience and n - best[-1] == config.patience:
                return step, evaluated, [evaluated[i - 1] for i in best[1:]]
    return config.max_steps, evaluated, [evaluated[i - 1] for i in best[1:]]


@st.composite
def trainings(draw):
    every, n = st.integers(1, 9), draw(st.integers(1, 23))
    cadence = {name: draw(every) for name in ("log_every", "eval_every", "save_every")}
    config = TrainConfig(max_steps=n, patience=draw(st.integers(0, 4)), **cadence)
    losses = draw(st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, math.nan]), min_size=n, max_size=n))
    moments = st.tuples(st.sampled_from(["step", "evaluate", "save", "log"]), st.integers(1, n))
    return Training(config, losses, draw(st.dictionaries(moments, st.sampled_from(SIGNALS), max_size=4)))


@few
@given(trainings())
def test_every_step_is_taken_once_in_order_with_the_batch_of_its_number(training):
    end, _, _ = by_hand(training.config, training.losses)
    assert training.run().learned == list(range(1, end + 1))
    assert training.asked == list(range(end))


@few
@given(trainings())
def test_validations_are_at_the_multiples_and_the_last_step_and_patience_ends_the_run(training):
    _, evaluated, _ = by_hand(training.config, training.losses)
    assert training.run().evaluated == evaluated


@few
@given(trainings())
def test_checkpoints_are_at_the_multiples_the_last_step_and_where_it_was_stopped_each_once(training):
    end, _, best = by_hand(training.config, training.losses)
    training.run()
    multiples = set(range(training.config.save_every, end + 1, training.config.save_every))
    assert [p.step for p in training.latest()] == sorted(multiples | {end} | {step for step, _ in training.interrupted})
    assert [p.step for name, p in training.saved if name == "best"] == best


@few
@given(trainings())
def test_a_checkpoint_knows_the_best_loss_and_how_many_validations_were_worse_since(training):
    _, evaluated, best = by_hand(training.config, training.losses)
    for p in training.run().latest():
        before = [step for step in evaluated if step <= p.step]
        best_before = max((step for step in best if step <= p.step), default=0)
        assert p.n_worse == sum(step > best_before for step in before)
        assert p.best_loss == (training.losses[evaluated.index(best_before)] if best_before else math.inf)


@few
@given(trainings())
def test_rows_of_the_log_are_at_the_first_step_the_multiples_and_the_last_and_after_each_validation(training):
    end, evaluated, _ = by_hand(training.config, training.losses)
    config, rows = training.config, training.run().rows
    logged = [s for s in range(1, end + 1) if s == 1 or s % config.log_every == 0 or s == config.max_steps]
    assert [row["step"] for row in rows if "loss" in row] == logged
    assert all(row["loss"] == 1 / row["step"] for row in rows if "loss" in row)
    assert [row["step"] for row in rows if "val_loss" in row] == evaluated
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)


@few
@given(trainings())
def test_seconds_are_those_of_all_steps_and_validations_over_all_resumptions_and_no_others(training):
    training.run()
    for p in training.latest():
        assert p.seconds == STEP * p.step + EVALUATION * sum(step <= p.step for step in training.evaluated)
    for row in training.rows:
        if "loss" in row:
            assert row["seconds"] == STEP * row["step"] + EVALUATION * sum(
                step < row["step"] for step in training.evaluated
            )


@few
@given(trainings())
def test_a_stop_is_told_by_the_status_of_its_signal_and_comes_after_the_step_at_hand_or_the_next(training):
    asked, (end, _, _) = dict(training.stops), by_hand(training.config, training.losses)
    training.run()
    stopped = {step for step, _ in training.interrupted}
    assert {status - 128 for _, status in training.interrupted} <= set(asked.values())
    for what, step in asked.keys() - training.stops.keys():
        last = step if what == "step" else step + 1
        assert last >= end or stopped & {step, last}


@pytest.mark.parametrize("patience", [1, 3])
def test_a_plateau_is_no_new_best_and_a_new_best_starts_the_count_again(patience):
    losses = [5.0, *[5.0] * (patience - 1), 4.0, *[4.0] * patience, 1.0]
    training = Training(TrainConfig(max_steps=99, eval_every=2, save_every=50, patience=patience), losses, {}).run()
    assert training.evaluated[-1] == training.progress.step == 2 * (2 * patience + 1)
    assert [p.step for p in training.latest()] == [training.progress.step], "an early stop is saved"


def test_whatever_a_step_raises_passes_through_with_nothing_saved():
    training = Training(TrainConfig(max_steps=9, save_every=2, eval_every=9), [1.0], {})
    training.step = lambda i: {"loss": 1.0, "tokens": 1} if i < 4 else 1 // 0
    with pytest.raises(ZeroDivisionError):
        training.run()
    assert [p.step for p in training.latest()] == [2, 4]


def test_a_run_that_is_over_takes_no_step_and_leaves_its_checkpoints_alone():
    for over in (Progress(step=9), Progress(step=4, n_worse=2)):
        training = Training(TrainConfig(max_steps=9, patience=2), [], {})
        training.progress = replace(over)
        assert training.run().progress == over and not (training.learned or training.saved or training.rows)

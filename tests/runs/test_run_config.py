"""Sections of a config that contradict each other are refused before anything is read."""

import dataclasses
import importlib
import math
import pkgutil

import pytest

import minillm
from minillm.config.loading import keys
from minillm.config.flags import override
from minillm.runs.wiring import TASKS, build_task
from minillm.run_config import RunConfig

KINDS = {
    "decoder": "NextToken",
    "rnn": "NextToken",
    "ngram": "Counting",
    "encoder": "Blanks",
    "encoder_decoder": "Translation",
}


@pytest.mark.parametrize(("kind", "task"), KINDS.items())
def test_the_kind_of_model_says_what_is_learned(kind, task):
    assert type(build_task(override(RunConfig(), {"model.kind": kind}))).__name__ == task
    assert len(TASKS) == len(KINDS), "every kind is tried"


def test_labels_are_told_wherever_they_are_asked_for():
    assert (
        type(build_task(override(RunConfig(), {"model.kind": "encoder", "labels.kind": "ending"}))).__name__ == "Labels"
    )


def sections() -> list[type]:
    """Every config section, wherever it lives."""
    names = [name for _, name, _ in pkgutil.walk_packages(minillm.__path__, "minillm.") if "__main__" not in name]
    parts = {
        part
        for name in names
        for part in vars(importlib.import_module(name)).values()
        if dataclasses.is_dataclass(part)
    }
    return sorted(
        (part for part in parts - {RunConfig} if part.__name__.endswith("Config")), key=lambda section: section.__name__
    )


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_number_of_every_section_is_finite_and_fits_in_64_bits(section):
    default = section()
    for key in keys(section):
        old = getattr(default, key.name)
        bad = {float: (math.inf, -math.inf, math.nan), int: (2**63, 2**70, -(2**70))}.get(type(old), ())
        for value in bad:
            with pytest.raises(ValueError, match=rf"{key.name} = {value}: expected"):
                dataclasses.replace(default, **{key.name: value})


def test_there_are_many_sections():
    assert {"TrainConfig", "OptimConfig", "SamplingConfig", "BeamConfig", "CacheConfig"} < {
        section.__name__ for section in sections()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("warmup", "max_steps"), [(7, 7), (0, 1), (8, 7), (20, 1)])
def test_a_warm_up_is_at_most_as_long_as_the_run_that_is_warmed_up(kind, warmup, max_steps):
    flags = {"model.kind": kind, "schedule.warmup_steps": str(warmup), "train.max_steps": str(max_steps)}
    if warmup <= max_steps or kind == "ngram":
        override(RunConfig(), flags)
        return
    with pytest.raises(
        ValueError, match=rf"^schedule\.warmup_steps = {warmup}: expected at most train\.max_steps = {max_steps}, "
    ):
        override(RunConfig(), flags)


def test_a_part_of_a_batch_has_a_row_at_least():
    override(RunConfig(), {"train.batch_size": "5", "train.n_micro_batches": "5"})
    with pytest.raises(
        ValueError, match=r"^train\.n_micro_batches = 6: expected at most train\.batch_size = 5, .*; lower it"
    ):
        override(RunConfig(), {"train.batch_size": "5", "train.n_micro_batches": "6"})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"optim.lr": "inf"}, r"^--optim\.lr = inf: expected a finite number"),
        ({"optim.muon_lr": "nan"}, r"^--optim\.muon_lr = nan: expected a finite number"),
        ({"train.seed": str(2**70)}, r"^--train\.seed = 1180591620717411303424: expected int 0 \.\.\. 4294967295"),
        ({"train.seed": "-1"}, r"^--train\.seed = -1: expected int 0 \.\.\. 4294967295"),
        ({"labels.kind": "ending"}, r"^labels\.kind = ending: expected model\.kind = encoder"),
        ({"masking.fraction": "0.2"}, r"^masking: expected only beside model\.kind = encoder and labels\.kind = none"),
        (
            {"masking.fraction": "0.2", "model.kind": "encoder", "labels.kind": "ending"},
            r"^masking: expected only beside ",
        ),
        (
            {"train.label_smoothing": "0.1", "model.kind": "encoder"},
            r"^train\.label_smoothing = 0\.1: expected 0 beside",
        ),
        *(
            (
                {"data.order": "contiguous", "model.kind": kind},
                rf"^data\.order = contiguous: expected model\.kind = rnn, .*, not {kind};",
            )
            for kind in KINDS
            if kind != "rnn"
        ),
        (
            {"data.order": "contiguous", "model.kind": "rnn", "train.backward": "manual"},
            r"^data\.order = contiguous: expected epochs or random beside train\.backward = manual",
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(RunConfig(), flags)

"""Contradictions between [task] and the other sections of a config are refused before anything is read."""

import dataclasses
import importlib
import math
import pkgutil

import pytest

import minillm
from minillm.config.flags import override
from minillm.config.loading import from_dict, keys, to_toml
from minillm.runs.config import CONFIGS, TASKS, RunConfig, load_config

PAIRS = [(task, model) for task in TASKS for model in task.models]
each_pair = pytest.mark.parametrize(
    ("task", "model"), PAIRS, ids=[f"{task.kind} {model.kind}" for task, model in PAIRS]
)
each_config = pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.toml")))


def kinds(task: type, model: type) -> dict[str, str]:
    return {"task.kind": task.kind, "model.kind": model.kind}


@each_config
def test_a_config_that_ships_names_its_task_and_opens_with_it(name):
    config = load_config(name)
    sections = (CONFIGS / f"{name}.toml").read_text().split("\n[")
    assert any(part.startswith(f'task]\nkind = "{config.task.kind}"\n') for part in sections)
    assert to_toml(config).startswith(f'[task]\nkind = "{config.task.kind}"  # ')


def test_every_kind_of_task_trains_a_config_that_ships_and_no_two_have_one_name():
    shipped = {type(load_config(path.stem).task) for path in CONFIGS.glob("*.toml")}
    assert shipped == set(TASKS) and len({task.kind for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_a_task_trains_the_kinds_of_model_that_it_lists_and_no_other(task):
    models = dict.fromkeys(model for each in TASKS for model in each.models)
    for model in models:
        if model in task.models:
            config = override(RunConfig(), kinds(task, model))
            assert (type(config.task), type(config.model)) == (task, model)
            continue
        with pytest.raises(
            ValueError, match=rf"^model\.kind = {model.kind}: expected .* beside task\.kind = {task.kind};"
        ) as e:
            override(RunConfig(), kinds(task, model))
        others = [each.kind for each in TASKS if model in each.models]
        assert f"set task.kind = {' or '.join(others)}, or take another model" in str(e.value)


def another(value: object) -> object:
    """A valid value that is not the default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value / 2 if isinstance(value, float) and value else None


@each_pair
def test_a_section_that_a_task_does_not_use_is_refused_with_the_reason_key_by_key(task, model):
    config = override(RunConfig(), kinds(task, model))
    for name, why in config.task.ignores(config).items():
        section, _, leaf = name.partition(".")
        ours = getattr(config, section)
        for field in dataclasses.fields(ours):
            value = another(getattr(ours, field.name))
            if value is None or leaf not in ("", field.name):
                continue
            with pytest.raises(ValueError, match=r"expected .*, its default, since .*; leave it out$") as e:
                dataclasses.replace(config, **{section: dataclasses.replace(ours, **{field.name: value})})
            assert str(e.value).startswith(f"{section}.") and why in str(e.value)


def test_a_task_by_gradients_uses_what_counting_ignores():
    for task, model in PAIRS:
        config = override(RunConfig(), kinds(task, model))
        assert ("optim" in config.task.ignores(config)) == (task.kind == "count")


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"task": {"kind": "next_tokens"}}, r"^task\.kind = 'next_tokens': .*did you mean next_token\?"),
        ({"task": {"kind": "next_token", "fraction": 0.2}}, r"^task\.fraction: unknown key"),
        ({"tasks": {"kind": "next_token"}}, r"^tasks: unknown section; .*did you mean task\?"),
        ({"task": {"kind": "blanks", "models": 3}}, r"^task\.models: unknown key"),
    ],
)
def test_an_unknown_kind_or_key_is_refused_with_the_nearest_name(tree, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(RunConfig, tree)


def sections() -> list[type]:
    """Every config section, wherever it lives."""
    names = [name for _, name, _ in pkgutil.walk_packages(minillm.__path__, "minillm.") if "__main__" not in name]
    parts = {
        part
        for name in names
        for part in vars(importlib.import_module(name)).values()
        if dataclasses.is_dataclass(part) and isinstance(part, type)
    }
    found = [part for part in parts - {RunConfig} if part.__name__.endswith("Config") or part in TASKS]
    return sorted(found, key=lambda section: section.__name__)


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
    assert {"TrainConfig", "OptimConfig", "SamplingConfig", "BeamConfig", "CacheConfig", "Blanks"} < {
        section.__name__ for section in sections()
    }


@each_pair
@pytest.mark.parametrize(("warmup", "max_steps"), [(7, 7), (0, 1), (8, 7), (20, 1)])
def test_a_warm_up_is_at_most_as_long_as_the_run_that_is_warmed_up(task, model, warmup, max_steps):
    flags = kinds(task, model) | {"train.max_steps": str(max_steps)}
    if task.kind == "count":
        assert override(RunConfig(), flags).schedule.warmup_steps == 20, "ignored"
        return
    flags |= {"schedule.warmup_steps": str(warmup)}
    if warmup <= max_steps:
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
        ({"task.question": "ending"}, r"^--task\.question: unknown key of task\.kind = next_token; .*labels beside it"),
        (
            {"task.label_smoothing": "0.1", "task.kind": "blanks", "model.kind": "encoder"},
            r"^--task\.label_smoothing: unknown key of task\.kind = blanks; "
            r"expected task\.kind = next_token or translate",
        ),
        (
            {"task.order": "contiguous"},
            r"^task\.order = contiguous: expected epochs, its default, since only model\.kind = rnn .*, not decoder;",
        ),
        (
            {"task.order": "contiguous", "task.kind": "blanks", "model.kind": "encoder"},
            r"^--task\.order = 'contiguous': expected one of epochs, random",
        ),
        (
            {"task.order": "contiguous", "model.kind": "rnn", "task.backward": "manual"},
            r"^task\.order = contiguous: expected epochs or random beside task\.backward = manual",
        ),
        (
            {"task.short_first": "0.2"},
            r"^task\.short_first = 0\.2: expected 0 beside task\.order = epochs.*; set task\.order = documents",
        ),
        (
            {"task.label_smoothing": "0.2", "task.backward": "manual"},
            r"^task\.label_smoothing = 0\.2: expected 0 beside task\.backward = manual",
        ),
        (
            {"task.kind": "blanks", "model.kind": "encoder", "task.masked": "0.8", "task.random": "0.3"},
            r"^task\.masked \+ task\.random = 1\.1: expected at most 1",
        ),
        (
            {"task.kind": "blanks", "model.kind": "encoder", "task.fraction": "0"},
            r"^--task\.fraction = .*: expected float 0\.01 \.\.\. 1",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(RunConfig(), flags)


@pytest.mark.parametrize("most", [0, 7, 200])
def test_the_least_number_of_new_tokens_is_at_most_the_greatest(most):
    flags = {"text.max_new_tokens": str(most), "sampling.min_new_tokens": str(most)}
    assert override(RunConfig(), flags).sampling.min_new_tokens == most
    flags["sampling.min_new_tokens"] = str(most + 1)
    with pytest.raises(ValueError, match=rf"^sampling\.min_new_tokens = {most + 1}: expected at most .* = {most}; "):
        override(RunConfig(), flags)

"""A config's expected results are shown only for the training that they were measured on."""

from dataclasses import replace

import pytest

from minillm.config.flags import override
from minillm.runs.config import RunConfig, load_config
from minillm.runs.expectations import announce, as_expected, differences
from minillm.tasks.settings import AboutConfig

GPT = load_config("gpt-tiny")


def after(original: RunConfig, **flags: str) -> AboutConfig:
    """The [about] section after these flags are applied."""
    changed = override(original, {name.replace("__", "."): value for name, value in flags.items()})
    return as_expected(changed, original).about


def test_a_config_as_it_is_keeps_all_that_it_expects():
    assert as_expected(GPT, GPT) == GPT and after(GPT, train__max_steps="1000", data__corpus="stories") == GPT.about
    figures = f"validation loss {GPT.about.expected_loss:.3f} after about {GPT.about.expected_seconds:.0f} s"
    assert announce(GPT) == f"expected, with the values of the config's file: {figures} on two CPU cores"


@pytest.mark.parametrize(
    "flags",
    [
        {"train__run": "x"},
        {"train__log_every": "3"},
        {"train__seed": "5"},
        {"sampling__top_p": "0.5"},
        {"train__save_every": "7"},
        {"text__prompt": "One day"},
    ],
)
def test_what_changes_nothing_that_is_learned_keeps_all(flags):
    assert after(GPT, **flags) == GPT.about


@pytest.mark.parametrize(
    "flags", [{"train__precision": "bf16"}, {"train__eval_every": "9"}, {"train__n_micro_batches": "2"}]
)
def test_what_only_takes_another_time_keeps_the_loss(flags):
    about = after(GPT, **flags)
    assert (
        about == replace(GPT.about, expected_seconds=0.0)
        and " s" not in announce(replace(GPT, about=about)).partition("loss")[2]
    )


@pytest.mark.parametrize(
    "flags",
    [
        {"train__max_steps": "999"},
        {"optim__lr": "0.1"},
        {"data__n_stories": "9"},
        {"data__clean": "true"},
        {"tokenizer__vocab_size": "300"},
        {"schedule__kind": "cosine"},
        {"train__batch_size": "9"},
        {"train__patience": "2"},
        {"data__seed": "4"},
        {"task__label_smoothing": "0.1"},
    ],
)
def test_another_training_of_the_same_keeps_the_summary_alone(flags):
    assert after(GPT, **flags) == AboutConfig(summary=GPT.about.summary)


@pytest.mark.parametrize(
    "flags",
    [
        {"data__corpus": "README.md"},
        {"model__n_layers": "1"},
        {"model__kind": "rnn"},
        {"task__kind": "labels", "model__kind": "encoder", "sampling__top_p": "1.0"},
        {"adapter__kind": "lora"},
    ],
)
def test_another_model_or_another_text_keeps_nothing(flags):
    about = after(GPT, **flags)
    assert about == AboutConfig() and announce(replace(GPT, about=about)) == ""


def test_learned_weights_are_expected_nothing_of():
    assert as_expected(GPT, GPT, fresh=False).about == AboutConfig(summary=GPT.about.summary)


def test_every_difference_is_named_also_between_kinds():
    assert differences(GPT, GPT) == []
    assert differences(override(GPT, {"train.seed": "3", "optim.lr": "1"}), GPT) == ["optim.lr", "train.seed"]
    assert {"model.kind", "model.cell", "model.d_model"} <= set(differences(override(GPT, {"model.kind": "rnn"}), GPT))

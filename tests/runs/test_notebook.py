"""Two lines in a notebook: the same texts and the same weights as by the command line, and errors as sentences."""

import json

import pytest
import torch

import minillm
import train
from minillm.decoding.sampler import SamplingConfig
from minillm.runs import folder
from tests.small_runs import SMALL, TEXT, flags

TEXTS = [line for line in TEXT.split("\n") if line]


def test_a_prompt_is_completed_as_by_the_run_and_a_list_one_seed_each(finished):
    model = minillm.load(finished)
    opened = folder.open_run(finished)
    how = {"max_new_tokens": 7, "seeds": [3, 4]}
    expected = [each.text for each in opened.text.generate(["the ", "7"], SamplingConfig(top_p=0.9), **how)]
    found = model.generate(["the ", "7"], top_p=0.9, seed=3, max_new_tokens=7)
    assert found == expected and model.generate("the ", top_p=0.9, seed=3, max_new_tokens=7) == expected[0]
    assert str(finished) in repr(model)


def test_scores_are_those_of_the_text_model_and_add_up(finished):
    model = minillm.load(finished)
    whole, parts = model.score("the ", "quick"), model.logprobs("the quick")
    assert sum(logprob for _, logprob in parts[4:]) == pytest.approx(whole, abs=1e-4)
    assert model.score(["the ", "a"], ["quick", "b"]) == pytest.approx([whole, model.score("a", "b")], abs=1e-4)
    with pytest.raises(ValueError, match="two texts or two lists"):
        model.score("a", ["b"])


def test_a_list_of_texts_trains_as_a_file_of_them_does_and_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = SMALL | {"train.max_steps": 4}
    model = minillm.train("gpt-tiny", corpus=TEXTS, **small)
    (tmp_path / "my.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    words = flags(data__corpus=tmp_path / "my.jsonl", train__run=tmp_path / "other", train__max_steps=4)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    other = folder.open_run(tmp_path / "other").text.model.state_dict()
    assert all(torch.equal(weight, other[name]) for name, weight in model.text.model.state_dict().items())
    assert train.main(["--resume", "runs/gpt-tiny", "--train.max_steps", "5"]) == 0
    assert minillm.load().opened.step == 5 and minillm.load("runs/gpt-tiny").opened.config.train.max_steps == 5
    again = minillm.train("gpt-tiny", corpus=TEXTS, **small)
    assert again.opened.path.name == "gpt-tiny-2"


@pytest.mark.parametrize(
    ("config", "corpus", "overrides", "message"),
    [
        ("gpt-tyni", None, {}, "did you mean gpt-tiny"),
        ("gpt-tiny", "one text", {}, "one text"),
        ("gpt-tiny", [1], {}, r"texts\[0\] = 1"),
        ("gpt-tiny", ["a b"] * 99, {"train.max_step": 3}, "did you mean train.max_steps"),
        ("gpt-tiny", ["a b"] * 99, {"train.max_steps": 0}, "train.max_steps = 0"),
    ],
)
def test_what_cannot_be_trained_is_a_value_error(tmp_path, monkeypatch, config, corpus, overrides, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        minillm.train(config, corpus=corpus, **overrides)


def test_unknown_settings_and_runs_that_do_not_write_are_value_errors(finished, tmp_path):
    with pytest.raises(ValueError, match="did you mean temperature"):
        minillm.load(finished).generate("a", temprature=0.5)
    with pytest.raises(ValueError, match=r"top_p = 1.5"):
        minillm.load(finished).generate("a", top_p=1.5)
    with pytest.raises(ValueError, match="expected the folder of a run"):
        minillm.load(tmp_path / "nothing")

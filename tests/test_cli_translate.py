"""A translator by the scripts: trained on pairs, prompted, and its attention shown."""

import json
import sys
from functools import partial

import pytest
import torch

import sample
import train
from minillm.decoding.attention_map import save_heat_maps, table
from minillm.decoding.sampler import SamplingConfig
from minillm.runs import folder
from minillm.training import checkpoint
from minillm.training.metrics import read_metrics
from minillm.training.step import GradientStep
from tests import tiny
from tests.interruption import ctrl_c_after

SMALL = {
    "data.n_pairs": 600,
    "data.val_fraction": 0.05,
    "tokenizer.vocab_size": 500,
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.context_length": 64,
    "model.dropout": 0.1,
    "task.label_smoothing": 0.1,
    "train.batch_size": 4,
    "schedule.warmup_steps": 1,
    "train.max_steps": 6,
    "train.eval_every": 6,
    "train.precision": "fp32",
    "text.max_new_tokens": 10,
}


flags = partial(tiny.flags, SMALL)  # flags of a run that takes one second


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A translator that was trained a little."""
    path = tmp_path_factory.mktemp("work") / "run"
    assert train.main(["--config", "translate-tiny", *flags(train__run=path)]) == 0
    return path


def test_training_reports_exact_match_and_keeps_the_test_combinations_for_the_end(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert 0 <= summary["exact_match"] <= 1 and {"val_loss", "test_loss", "test_exact_match"} <= summary.keys()


def test_a_stopped_translator_goes_on_to_the_same_bits(finished, tmp_path):
    with ctrl_c_after(GradientStep, 3):
        assert train.main(["--config", "translate-tiny", *flags(train__run=tmp_path / "stopped")]) == 130
    assert train.main(["--resume", str(tmp_path / "stopped")]) == 0
    one, other = (
        checkpoint.load(path / "checkpoint" / "latest.pt")["step"]["model"] for path in (finished, tmp_path / "stopped")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_translator_trains_by_the_schedule_of_the_paper(tmp_path):
    words = flags(
        train__run=tmp_path / "run", train__log_every=1, schedule__kind="inverse_sqrt", schedule__warmup_steps=2
    )
    assert train.main(["--config", "translate-tiny", *words]) == 0
    rates = [row["lr"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "lr" in row]
    assert max(rates) == rates[1] and rates[1:] == sorted(rates[1:], reverse=True)


def test_the_prompt_is_the_source_and_is_shown_beside_its_translation(finished, capsys):
    words = ["--run", str(finished), "--prompt", "je suis étudiant"]
    assert sample.main(words) == 0
    whole = capsys.readouterr().out
    assert "\nje suis étudiant ->" in whole and "temperature 0" in whole
    assert sample.main([*words, "--stream"]) == 0
    assert capsys.readouterr().out == whole


def test_translations_of_many_are_those_of_each(finished):
    text = folder.open_run(finished).text
    prompts = ["je suis étudiant", "elle", "est-ce que tu manges une pomme ?"]
    sampling = SamplingConfig(temperature=0.0)
    together = text.generate(prompts, sampling, max_new_tokens=12, seeds=[0, 1, 2])
    alone = [text.generate([prompt], sampling, max_new_tokens=12, seeds=[0])[0] for prompt in prompts]
    assert together == alone


@pytest.mark.parametrize("plots", [True, False])
def test_attention_is_a_table_and_where_matplotlib_is_a_picture(finished, plots, capsys, monkeypatch):
    (finished / "attention.png").unlink(missing_ok=True)
    if not plots:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    else:
        pytest.importorskip("matplotlib")
    assert sample.main(["--run", str(finished), "--prompt", "je suis étudiant", "--attention"]) == 0
    out = capsys.readouterr().out
    assert "layer 1 of 1" in out and "[" in out and out.count("END") >= 2
    assert (finished / "attention.png").exists() == plots == ("attention.png" in out)


def test_where_a_translation_was_looked_for_sums_to_one(finished):
    target, source, weights = folder.open_run(finished).text.attention("je suis étudiant", "I am")
    assert weights.shape == (1, 2, len(target), len(source)) and source[-1] == target[-1] == "END"
    assert weights.sum(-1).allclose(weights.new_ones(()))


def test_the_first_batch_is_shown_with_its_source(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "translate-tiny", *flags(), "--show-batch"]) == 0
    out = capsys.readouterr().out
    assert out.count("<|end|>") >= 3 and "source  " in out


def test_a_file_of_pairs_trains_and_translates(tmp_path, capsys):
    (tmp_path / "my.tsv").write_text("".join(f"un {i}\tone {i}\n" for i in range(200)), encoding="utf-8")
    words = flags(
        data__corpus=tmp_path / "my.tsv", train__run=tmp_path / "run", tokenizer__kind="byte", data__test_fraction=0.0
    )
    assert train.main(["--config", "translate-tiny", *words]) == 0
    assert "test_loss" not in json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sample.main(["--run", str(tmp_path / "run"), "--prompt", "un 3"]) == 0


BAD = {
    "empty prompt": (["--prompt", " "], "expected a sentence to translate"),
    "long prompt": (["--prompt", "je suis " * 100], "expected at most model.context_length = 64"),
    "attention of a stream": (["--attention", "--stream"], "--stream would be ignored beside --attention"),
    "attention of many": (
        ["--attention", "--temperature", "1", "--num-samples", "2"],
        "--num-samples would be ignored beside --attention",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_translated_or_shown_is_one_sentence_and_status_2(finished, words, sentence, capsys):
    assert sample.main(["--run", str(finished), *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


WRONG = {
    "stories": (["--data.corpus", "stories"], "expected translation, or a .tsv file"),
    "cleaning": (
        ["--data.clean", "true"],
        "data.clean = true: expected false, its default, since cleaning removes single texts",
    ),
    "short context": (["--model.context_length", "8"], "expected at most model.context_length = 8"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_translator_that_cannot_be_trained_is_refused(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "translate-tiny", *flags(), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_table_marks_where_each_row_looks_most_and_a_picture_is_saved(tmp_path):
    weights = torch.tensor([[0.75, 0.25], [0.125, 0.875]])
    lines = table(["I", "am"], ["je", "suis"], weights).splitlines()
    assert [line.split() for line in lines] == [["je", "suis"], ["I", "[0.75]", "0.25"], ["am", "0.12", "[0.88]"]]
    assert len({len(line) for line in lines}) == 1
    pytest.importorskip("matplotlib")
    assert save_heat_maps(["I", "am"], ["je", "suis"], weights[None].repeat(3, 1, 1), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000

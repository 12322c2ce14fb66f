"""Encoders by the scripts: training, masked tokens, search, fine-tuning, and refused uses."""

import json

import pytest
import torch

import sample
import train
from minillm.console import reading
from minillm.runs.folder import open_run
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests.interruption import ctrl_c_after
from tests.test_cli import flags, same, weights

TINY = {"model__context_length": 64, "model__n_layers": 2, "train__max_steps": 6, "data__n_stories": 100}
TINY |= {"tokenizer__kind": "sentencepiece-bpe"}


def small(**more):
    """Flags of a training that takes a second; an encoder writes no tokens."""
    words = flags(**(TINY | more))
    at = words.index("--text.max_new_tokens")
    return words[:at] + words[at + 2 :]


SHAPE = [  # flags that give another config the same encoder
    word
    for name, value in zip(small()[::2], small()[1::2], strict=True)
    if name.startswith(("--model", "--tokenizer"))
    for word in (name, value)
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with an encoder, a decoder and the encoder fine-tuned on endings; and the output of their training."""
    folder, outs = tmp_path_factory.mktemp("runs"), {}
    quick = {"data.n_stories": 60, "train.max_steps": 4, "schedule.warmup_steps": 1, "train.batch_size": 5}
    finetune = SHAPE + [f"--{name}={value}" for name, value in quick.items()]
    commands = {
        "encoder": ["--config", "encoder-tiny", *small(train__run=folder / "encoder")],
        "decoder": ["--config", "gpt-tiny", *small(train__run=folder / "decoder", train__max_steps=1)],
        "ending": [
            "--config",
            "encoder-ending",
            "--init-from",
            str(folder / "encoder"),
            "--train.run",
            str(folder / "ending"),
            *finetune,
        ],
    }
    for name, words in commands.items():
        with pytest.MonkeyPatch.context() as patch:
            said = []
            patch.setattr("builtins.print", lambda *what, said=said, **how: said.append(" ".join(map(str, what))))
            assert train.main(words) == 0, said
        outs[name] = "\n".join(said)
    return folder, outs


def test_training_an_encoder_says_nothing_that_is_only_true_of_decoders(runs):
    folder, outs = runs
    summary = json.loads((folder / "encoder" / "summary.json").read_text())
    assert {"val_loss", "val_masked_accuracy", "test_loss", "test_masked_accuracy"} <= set(summary)
    assert 0 <= summary["val_masked_accuracy"] <= 1
    for text in ("regret", "source", "bits_per_byte", "write more"):
        assert text not in outs["encoder"] and text not in summary
    assert "fill in more with: python sample.py --run" in outs["encoder"] and "blank 1\n" in outs["encoder"]
    rows = [json.loads(line) for line in (folder / "encoder" / "metrics.jsonl").read_text().splitlines()]
    assert all("masked_accuracy" in row for row in rows if "loss" in row)


def test_a_stopped_encoder_resumes_to_the_same_bits(runs, tmp_path):
    folder, _ = runs
    with ctrl_c_after(GradientStep, 3):
        assert train.main(["--config", "encoder-tiny", *small(train__run=tmp_path / "stopped")]) == 130
    assert train.main(["--resume", str(tmp_path / "stopped")]) == 0
    assert same(weights(tmp_path / "stopped"), weights(folder / "encoder"))


def test_blanks_are_filled_with_candidates_and_probabilities(runs, capsys):
    folder, _ = runs
    assert sample.main(["--run", str(folder / "encoder"), "--fill", "The [MASK] sat on the [MASK]."]) == 0
    out = capsys.readouterr().out
    first, second = out.partition("blank 1\n")[2].split("blank 2\n")
    for block in (first, second):
        lines = block.split("\n\n")[0].splitlines()
        probabilities = [float(line.split()[0]) for line in lines]
        assert (
            len(lines) == reading.N_SHOWN
            and probabilities == sorted(probabilities, reverse=True)
            and sum(probabilities) <= 1
        )
    assert "[MASK]" not in out.splitlines()[-1]


def test_the_nearest_sentences_come_from_the_corpus_or_from_a_file(runs, tmp_path, capsys):
    folder, _ = runs
    (tmp_path / "lines.txt").write_text("The cat sat.\nA dog ran home.\n\nThe cat sat.\n")
    words = ["--run", str(folder / "encoder"), "--nearest", "The cat sat."]
    assert sample.main([*words, "--among", str(tmp_path / "lines.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 2 and lines[0] == " 1.0000  The cat sat."
    assert sample.main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + reading.N_SHOWN


def test_fine_tuning_starts_from_the_encoder_reports_accuracy_and_tells_labels(runs, capsys, tmp_path):
    folder, outs = runs
    assert "a uniform guess has loss ln 2 = 0.693" in outs["ending"] and "--classify TEXT" in outs["ending"]
    summary = json.loads((folder / "ending" / "summary.json").read_text())
    assert (
        {"val_accuracy", "test_accuracy"} <= set(summary) and "bits_per_byte" not in summary and "regret" not in summary
    )
    assert sample.main(["--run", str(folder / "ending"), "--classify", "They ran to the bench, and there it was!"]) == 0
    probabilities = {line.split()[1]: float(line.split()[0]) for line in capsys.readouterr().out.splitlines()[2:]}
    assert set(probabilities) == {"bad", "good"} and sum(probabilities.values()) == pytest.approx(1, abs=2e-4)
    words = [
        "--train.max_steps=1",
        "--data.n_stories=60",
        "--optim.lr=1e-12",
        "--optim.min_lr=1e-13",
        f"--train.run={tmp_path / 'still'}",
    ]
    words.append("--schedule.warmup_steps=1")
    assert train.main(["--config", "encoder-ending", "--init-from", str(folder / "encoder"), *SHAPE, *words]) == 0
    old = checkpoint.load(folder / "encoder" / "checkpoint" / "best.pt")["step"]["model"]
    new = weights(tmp_path / "still")["model"]
    assert all(torch.allclose(new[f"encoder.{name}"], p, atol=1e-6) for name, p in old.items())


def test_a_batch_with_blanks_is_shown_with_what_stood_there_and_a_labelled_text_with_its_label(runs, capsys):
    assert train.main(["--config", "encoder-tiny", *small(), "--show-batch"]) == 0
    out = capsys.readouterr().out
    counted = [line for line in out.splitlines() if line.endswith("yes")]
    assert "[MASK]" in out and counted and all(line.split()[-2].endswith("'") for line in counted)
    assert train.main(["--config", "encoder-ending", *small(), "--show-batch"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(("good: ", "bad: "))


def test_an_adapter_of_an_encoder_is_saved_with_the_new_head_that_was_trained_beside_it(runs, tmp_path):
    base, path = runs[0] / "encoder", tmp_path / "lora"
    quick = {"data.n_stories": 60, "train.max_steps": 2, "schedule.warmup_steps": 1, "adapter.kind": "lora"}
    words = ["--config", "encoder-ending", "--init-from", str(base), "--train.run", str(path), *SHAPE]
    assert train.main([*words, *(f"--{name}={value}" for name, value in quick.items())]) == 0
    saved = checkpoint.load(path / "checkpoint" / "best.pt")["step"]["model"]
    assert {name.rpartition(".")[2] for name in saved if "answer" not in name} == {"weight"}
    assert {name for name in saved if not name.endswith(("A.weight", "B.weight"))} == {
        f"answer.{part}" for part in ("dense.weight", "dense.bias", "head.weight", "head.bias")
    }
    texts = [open_run(path).text.model(torch.arange(12)[None]) for _ in range(2)]
    assert torch.equal(*texts)


def test_an_encoder_learns_pairs_too_if_asked(tmp_path):
    words = small(train__run=tmp_path / "pairs", model__next_sentence=2)
    assert train.main(["--config", "encoder-tiny", *words]) == 0
    summary = json.loads((tmp_path / "pairs" / "summary.json").read_text())
    assert {"val_masked_loss", "val_masked_accuracy", "val_next_sentence_accuracy"} <= set(summary)
    assert sample.main(["--run", str(tmp_path / "pairs"), "--fill", "The [MASK] sat"]) == 0


def test_a_config_that_names_no_task_goes_on_with_that_of_the_run_and_one_that_does_must_fit_it(runs, tmp_path, capsys):
    (tmp_path / "more.toml").write_text(
        "[data]\nn_stories = 60\n[schedule]\nwarmup_steps = 1\n[train]\nmax_steps = 1\n"
    )
    words = ["--init-from", str(runs[0] / "encoder"), "--train.run", str(tmp_path / "more")]
    assert train.main(["--config", str(tmp_path / "more.toml"), *words]) == 0
    assert '[task]\nkind = "blanks"' in (tmp_path / "more" / "config.toml").read_text()
    assert train.main(["--config", "lora-tiny", *words]) == 2
    assert "model.kind = encoder: expected decoder or rnn beside task.kind = next_token" in capsys.readouterr().err


BAD = {
    "no blank": ("encoder", ["--fill", "The cat sat"], "expected a text with [MASK] in it"),
    "blanks for a decoder": ("decoder", ["--fill", "The [MASK] sat"], "--fill: expected --prompt TEXT"),
    "a prompt for an encoder": ("encoder", ["--prompt", "The"], "no text: expected --fill TEXT or --nearest TEXT"),
    "nothing for an encoder": ("encoder", [], "expected --fill TEXT or --nearest TEXT"),
    "sampling beside fill": (
        "encoder",
        ["--fill", "The [MASK]", "--top-p", "0.9"],
        "--top-p would be ignored beside --fill",
    ),
    "seed beside fill": ("encoder", ["--fill", "The [MASK]", "--seed", "1"], "--seed would be ignored beside --fill"),
    "stream beside fill": ("encoder", ["--fill", "The [MASK]", "--stream"], "--stream would be ignored beside --fill"),
    "preset beside fill": (
        "encoder",
        ["--fill", "The [MASK]", "--preset", "factual"],
        "--preset would be ignored beside --fill",
    ),
    "among beside fill": (
        "encoder",
        ["--fill", "The [MASK]", "--among", "x.txt"],
        "--among would be ignored beside --fill",
    ),
    "two questions": (
        "encoder",
        ["--fill", "The [MASK]", "--nearest", "The"],
        "--nearest: expected --fill TEXT or --nearest TEXT",
    ),
    "a long text": ("encoder", ["--fill", "The [MASK] " * 100], "expected at most model.context_length = 64"),
    "labels of an encoder": (
        "encoder",
        ["--classify", "The cat"],
        "--classify: expected --fill TEXT or --nearest TEXT",
    ),
    "blanks for a classifier": ("ending", ["--fill", "The [MASK]"], "--fill: expected --classify TEXT"),
    "nowhere to search": ("encoder", ["--nearest", "The", "--among", "nothing.txt"], "nothing.txt"),
}


@pytest.mark.parametrize(("name", "words", "sentence"), BAD.values(), ids=BAD)
def test_what_cannot_be_asked_is_one_sentence_and_status_2(runs, name, words, sentence, capsys):
    assert sample.main(["--run", str(runs[0] / name), *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


BAD_TRAINING = {
    "labels for a decoder": (
        ["--config", "gpt-tiny", "--task.kind", "labels"],
        "model.kind = decoder: expected encoder beside task.kind = labels; set task.kind = next_token",
    ),
    "blanks for a decoder": (
        ["--config", "gpt-tiny", "--task.fraction", "0.3"],
        "--task.fraction: unknown key of task.kind = next_token; expected task.kind = blanks beside it",
    ),
    "blanks beside labels": (
        ["--config", "encoder-ending", "--task.fraction", "0.3"],
        "--task.fraction: unknown key of task.kind = labels; expected task.kind = blanks beside it",
    ),
    "words for an encoder": (
        ["--config", "encoder-tiny", "--text.max_new_tokens", "9"],
        "an encoder fills in masked tokens",
    ),
    "conversations with an encoder": (
        ["--config", "encoder-tiny", "--text.template", "x"],
        "an encoder fills in masked tokens",
    ),
    "sampling for a classifier": (
        ["--config", "encoder-ending", "--sampling.top_p", "0.5"],
        "a classifier does not generate text",
    ),
    "labels of other texts": (
        ["--config", "encoder-ending", "--data.corpus", "my.txt"],
        "data.corpus = my.txt: expected stories beside task.kind = labels",
    ),
    "fine-tuning a decoder": (["--config", "encoder-ending", "--init-from", "{decoder}"], "model.kind = encoder"),
    "another encoder": (
        ["--config", "encoder-ending", "--init-from", "{encoder}"],
        "model.n_layers = 4, model.d_model",
    ),
    "a classifier as encoder": (
        ["--config", "encoder-tiny", "--init-from", "{ending}", *SHAPE],
        "expected the weights of another Encoder",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_what_cannot_be_trained_is_one_sentence_and_status_2(runs, words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text("one text\n" * 99)
    words = [word.format(**{name: runs[0] / name for name in ("encoder", "decoder", "ending")}) for word in words]
    assert train.main([*words, "--data.n_stories", "60"]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1

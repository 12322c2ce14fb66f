"""Supervised fine-tuning: from conversations to a model that ends its answers, from random or trained weights."""

import json
import math
from random import Random

import pytest
import torch

import minillm
import sample
import train
from minillm.datasets import examples
from minillm.datasets.worlds.exercise import Exercise, ExerciseWorld, choose
from minillm.decoding.sampler import SamplingConfig
from minillm.evaluation.answering import Answered, shares
from minillm.models.vocabulary import with_new_rows
from minillm.runs import folder
from minillm.tokenizers.role_template import TURN
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests.interruption import ctrl_c_after
from tests.small_runs import flags, said, started

WORDS = ["cat", "dog", "bee", "hen", "cow", "fox", "owl", "ant", "bat", "rat"]


class Echo(ExerciseWorld):
    """Say a word again."""

    name = "echo"

    def draw(self, rng, part):
        word = choose(rng, WORDS, part)
        asked = ({"role": "user", "content": f"Say {word}."},)
        return Exercise("echo", asked, {"role": "assistant", "content": word}, frozenset([f"fact: {word}"]), word)

    def is_right(self, exercise, answer):
        return answer == exercise.truth

    def document(self, rng):
        return f"Say {choose(rng, WORDS, 'train')}."


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    monkeypatch.setitem(examples.EXERCISES, "echo", Echo)


TUNED = {
    "task.kind": "sft",
    "tokenizer.kind": "byte",
    "data.corpus": "echo",
    "data.n_exercises": 90,
    "model.context_length": 24,
}


def tuned(path, *words, status=0, **changes):
    more = {name.replace(".", "__"): value for name, value in TUNED.items()} | changes
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path, **more), *words]) == status
    return path


def test_a_training_from_random_weights_measures_right_answers_and_can_be_talked_to(tmp_path, monkeypatch, capsys):
    run = tuned(tmp_path / "run", train__max_steps=30, optim__lr=1e-2)
    summary = json.loads((run / "summary.json").read_text())
    for part in ("", "test_"):
        assert 0 <= summary[f"{part}right"] == summary[f"{part}right_echo"] <= 1
    assert summary["val_loss"] < math.log(257 + 6) - 0.4
    assert "Say bat.\n> " in capsys.readouterr().out, "a held-out question is shown with its answer"
    assert sample.main(["--run", str(run), "--chat", "Say cat.", "--temperature", "0"]) == 0
    answer = capsys.readouterr().out
    assert minillm.load(run).chat([{"role": "user", "content": "Say cat."}], temperature=0) == answer.split("\n")[-2]
    monkeypatch.setattr(folder, "RUNS", tmp_path)
    assert folder.newest_chat_run() == run and folder.has_template(run)


def test_the_end_of_an_answer_is_learned_and_new_rows_begin_as_the_mean(tmp_path):
    base = started(tmp_path, tokenizer__kind="byte", model__context_length=24)
    old = folder.read_best(base)["step"]["model"]["embed.weight"]
    run = tmp_path / "tuned"
    how = {"task.kind": "sft", "data.corpus": "echo", "train.run": run, "train.max_steps": 300, "optim.lr": 3e-2}
    words = [f"--{name}={value}" for name, value in how.items()]
    assert train.main(["--init-from", str(base), *words, "--data.n_exercises", "900"]) == 0
    opened = folder.open_run(run)
    tokenizer, model = opened.text.tokenizer, opened.text.model
    new = model.state_dict()["embed.weight"]
    assert len(new) == len(old) + 6 == tokenizer.vocab_size
    ids = opened.text.template.render(
        [{"role": "user", "content": "Say cat."}, {"role": "assistant", "content": "cat"}], answer=False
    )
    with torch.inference_mode():
        logits, _ = model(torch.tensor([ids[:-1]]))
    assert int(logits[0, -1].argmax()) == tokenizer.special_tokens[TURN] == ids[-1]
    asked, greedy = opened.text.converse([{"role": "user", "content": "Say cat."}]), SamplingConfig(temperature=0.0)
    [done] = opened.text.generate([asked], greedy, max_new_tokens=8, seeds=[0])
    assert done.n_tokens > 1 and done.text[:1].isalpha(), "the space after the mark is no part of the answer"


def test_an_adapter_trains_the_rows_of_the_tokens_of_roles_unless_told_otherwise(tmp_path, capsys):
    base = started(tmp_path, tokenizer__kind="byte", model__context_length=24)
    how = {"task.kind": "sft", "data.corpus": "echo", "data.n_exercises": "90", "train.max_steps": "2"}

    def adapted(name, *words):
        more = [f"--{key}={value}" for key, value in how.items()]
        assert train.main(["--init-from", str(base), *more, "--train.run", str(tmp_path / name), *words]) == 0
        return folder.open_run(tmp_path / name).config.adapter, capsys.readouterr().out

    lora, said_of_lora = adapted("lora", "--adapter.kind", "lora", "--adapter.rank", "2")
    assert lora.rows == tuple(range(257, 263)) and "adapter.rows = 257 ... 262, since 6 tokens" in said_of_lora
    assert adapted("chosen", "--adapter.kind", "lora", "--adapter.rank", "2", "--adapter.rows", "258")[0].rows == (258,)
    assert "adapter.kind = ia3 trains no rows" in adapted("ia3", "--adapter.kind", "ia3")[1]


def test_new_rows_are_the_mean_of_the_old_and_old_rows_stay():
    model = torch.nn.ModuleDict({"a": torch.nn.Embedding(7, 3), "b": torch.nn.Linear(3, 5)})
    weights = {name: torch.randn(5, 3) if name == "a.weight" else x for name, x in model.state_dict().items()}
    found = with_new_rows(weights, model)
    assert torch.equal(found["a.weight"][:5], weights["a.weight"])
    torch.testing.assert_close(found["a.weight"][5:], weights["a.weight"].mean(0).expand(2, 3))
    assert found["b.weight"] is weights["b.weight"]
    model.load_state_dict(found)


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path):
    whole = tuned(tmp_path / "whole")
    with ctrl_c_after(GradientStep, 3):
        begun = tuned(tmp_path / "begun", status=130)
    assert train.main(["--resume", str(begun)]) == 0
    one, two = (checkpoint.load(run / "checkpoint" / "latest.pt")["step"]["model"] for run in (whole, begun))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_file_of_conversations_is_a_corpus_and_long_ones_are_counted(tmp_path, capsys):
    lines = [
        {"messages": [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": str(i)}]}
        for i in range(40)
    ]
    lines += [{"instruction": "a" * 90, "output": "b"}, {"instruction": "a", "output": "b" * 90}]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    tuned(tmp_path / "run", data__corpus=file, data__val_fraction=0.2)
    out = capsys.readouterr().out
    assert "2 conversations are longer than the context and lost their end" in out
    assert "1 had no answer within it and were dropped" in out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.corpus": "stories"}, "expected conversations: "),
        ({"data.val_fraction": 0}, "data.val_fraction = 0: expected some conversations"),
        ({"model.context_length": 6}, "no conversation fits"),
        ({"text.template": "x"}, "text.template = x: expected"),
        ({"data.clean": "true"}, "data.clean = "),
        ({"task.learned": "x"}, "task.learned = "),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, capsys, changes, expected):
    more = {name.replace(".", "__"): value for name, value in (TUNED | changes).items()}
    assert expected in said(capsys, "--config", "gpt-tiny", *flags(train__run=tmp_path / "run", **more))


def test_shares_are_told_for_each_world_and_in_all():
    [example] = [examples.Example([], Echo().draw(Random(1), "val"), Echo())]
    found = shares([Answered(example, "", "end", right) for right in (True, False, False, False)])
    assert found == {"right": 0.25, "right_echo": 0.25} and shares([]) == {}

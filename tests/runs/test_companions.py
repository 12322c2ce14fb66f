"""Companions by the scripts: a teacher is opened, frozen, remembered by its fingerprint, and refused if it differs."""

import json
import shutil
from pathlib import Path

import pytest

import sample
import train
from minillm.quantize import main as quantize
from minillm.runs import folder
from minillm.training import checkpoint
from minillm.training.on_policy import OnPolicyStep
from minillm.training.step import GradientStep
from tests.interruption import ctrl_c_after
from tests.small_runs import SMALL, TEXT, flags, said
from tests.test_cli import same, weights

TASK = {"task.kind": "distill", "data.val_fraction": 0.2, "data.test_fraction": 0, "model.context_length": 13}
WAYS = {
    "knowledge": {"task__weight": 0.5},
    "stored": {"task__stored": "true", "task__top_k": 3},
    "data": {"task__how": "data", "task__n_texts": 90},
    "on_policy": {"task__how": "on_policy", "task__prompt_tokens": 3, "task__written_share": 0.7},
}


def corpus(path: Path) -> Path:
    """Short documents, a line each."""
    lines = [json.dumps({"text": line[:12]}) for line in TEXT.splitlines()]
    (path / "lines.jsonl").write_text("\n".join(lines) + "\n")
    return path / "lines.jsonl"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The run of a teacher, beside its text."""
    path = tmp_path_factory.mktemp("teacher")
    words = flags(data__corpus=corpus(path), train__run=path / "teacher", model__n_layers=2, model__d_model=10)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    return path / "teacher"


def words_of(teacher: Path, path: Path, **changes) -> list[str]:
    settings = {name: value for name, value in (SMALL | TASK).items() if name != "tokenizer.kind"}
    where = {"data__corpus": teacher.parent / "lines.jsonl", "train__run": path, "task__teacher": teacher}
    return ["--config", "distill-tiny", *flags.func(settings, **(where | changes))]


def distilled(teacher: Path, path: Path, status: int = 0, **changes) -> Path:
    assert train.main(words_of(teacher, path, **changes)) == status
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_student_that_was_stopped_goes_on_to_the_same_bits(teacher, tmp_path, way):
    kind = OnPolicyStep if way == "on_policy" else GradientStep
    straight = distilled(teacher, tmp_path / "straight", **WAYS[way])
    with ctrl_c_after(kind, 3):
        stopped = distilled(teacher, tmp_path / "stopped", status=130, **WAYS[way])
    assert checkpoint.load(stopped / "checkpoint" / "latest.pt")["progress"]["step"] == 3
    assert train.main(["--resume", str(stopped)]) == 0
    assert same(weights(straight), weights(stopped))


def test_the_student_has_the_tokenizer_of_the_teacher_and_its_run_needs_no_teacher(teacher, tmp_path, capsys):
    path = distilled(teacher, tmp_path / "run", **WAYS["knowledge"])
    out = capsys.readouterr().out
    assert f"task.teacher = {teacher}: " in out and " parameters, frozen\n" in out
    ours, theirs = (folder.open_run(each) for each in (path, teacher))
    assert ours.text.tokenizer.to_dict() == theirs.text.tokenizer.to_dict()
    assert ours.config.tokenizer == theirs.config.tokenizer
    saved = checkpoint.load(path / "checkpoint" / "latest.pt")
    assert saved["companions"] == {"teacher": checkpoint.fingerprint(theirs.text.model.state_dict())}
    assert set(saved["step"]["model"]) == set(ours.text.model.state_dict()), "nothing of the teacher is saved"
    capsys.readouterr()
    moved = Path(shutil.move(path, tmp_path / "alone"))
    assert sample.main(["--run", str(moved), "--max-new-tokens", "3"]) == 0


def test_show_batch_and_dry_run_open_the_teacher_and_write_nothing(teacher, tmp_path, capsys):
    for way, look in (("stored", "--show-batch"), ("on_policy", "--show-batch"), ("data", "--dry-run")):
        assert train.main([*words_of(teacher, tmp_path / "run", **WAYS[way]), look]) == 0
    assert "counted" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_a_student_is_calibrated_on_what_it_read(teacher, tmp_path, capsys):
    path = distilled(teacher, tmp_path / "run", **WAYS["data"])
    words = ["--weights", "int8", "--calibrate", "1", "--out", str(tmp_path / "small")]
    assert quantize([str(path), *words]) == 0
    assert folder.open_run(tmp_path / "small").step == 6


def test_other_weights_of_the_teacher_are_refused_on_resume_and_a_moved_teacher_is_found(teacher, tmp_path, capsys):
    for name in ("lines.jsonl", "teacher"):
        copy = shutil.copytree if (teacher.parent / name).is_dir() else shutil.copy
        copy(teacher.parent / name, tmp_path / name)
    mine = tmp_path / "teacher"
    path = distilled(mine, tmp_path / "run", **WAYS["knowledge"])
    more = ["--resume", str(path), "--train.max_steps", "7"]
    place = mine / "checkpoint" / "best.pt"
    contents = checkpoint.load(place)
    contents["step"]["model"]["norm.weight"] += 0.1
    checkpoint.save(place, contents)
    err = said(capsys, *more)
    assert f"task.teacher = {mine}: expected the weights that {path} began with, of SHA-256 " in err
    shutil.rmtree(mine)
    assert f"task.teacher = {mine}: " in said(capsys, *more) and "found none" in said(capsys, *more)
    assert train.main([*more, "--task.teacher", str(teacher)]) == 0
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.copytree(teacher, other / "teacher")
    shutil.move(path, other / "run")
    assert train.main(["--resume", str(other / "run"), "--train.max_steps", "8"]) == 0, "found beside the run"
    assert "--task.how: expected only " in said(capsys, "--resume", other / "run", "--task.how", "data")


def test_a_missing_or_unfit_teacher_is_one_sentence_before_any_work(teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train.start, "read_data", None)
    cases = {
        'task.teacher = "": expected the folder of a run; name one': {"task__teacher": ""},
        f"task.teacher = {tmp_path / 'none'}: ": {"task__teacher": tmp_path / "none"},
        f"model.context_length = 99: expected at most 16, since task.teacher = {teacher} reads no more": {
            "model__context_length": 99
        },
        "tokenizer.kind = byte: expected char, as in task.teacher = ": {"tokenizer__kind": "byte"},
    }
    for sentence, changes in cases.items():
        assert sentence in said(capsys, *words_of(teacher, tmp_path / "run", **changes)), sentence


def test_a_teacher_that_is_an_encoder_is_refused(teacher, tmp_path, capsys):
    of_decoders = ("model.value_embeddings", "model.d_head", "model.d_model", "text.max_new_tokens")
    encoder = {name: value for name, value in SMALL.items() if name not in of_decoders} | {"model.d_model": 8}
    encoder |= {"tokenizer.kind": "byte", "data.corpus": teacher.parent / "lines.jsonl"}
    words = flags.func(encoder, train__run=tmp_path / "encoder")
    assert train.main(["--config", "encoder-tiny", *words]) == 0
    err = said(capsys, *words_of(tmp_path / "encoder", tmp_path / "run"))
    assert f"task.teacher = {tmp_path / 'encoder'}: expected a run that writes, found task.kind = blanks" in err


def test_a_student_from_weights_of_another_tokenizer_is_refused(teacher, tmp_path, capsys):
    words = flags(data__corpus=teacher.parent / "lines.jsonl", train__run=tmp_path / "other", tokenizer__kind="byte")
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    kind = {"task__kind": "distill", "task__teacher": teacher}
    err = said(capsys, "--init-from", tmp_path / "other", *flags.func({}, **kind))
    assert f"task.teacher = {teacher}: expected the tokenizer of the model that learns, found a different one" in err


def test_a_table_of_ngrams_teaches_too(teacher, tmp_path):
    words = {"data.corpus": teacher.parent / "lines.jsonl", "train.run": tmp_path / "ngrams", "tokenizer.kind": "char"}
    small = {"model.context_length": 16, "text.max_new_tokens": 1}
    assert train.main(["--config", "ngram-tiny", *flags.func(words | small)]) == 0
    for way in ("knowledge", "data"):
        distilled(tmp_path / "ngrams", tmp_path / way, data__corpus=teacher.parent / "lines.jsonl", **WAYS[way])

"""The scripts: train, sample, resume, and every invalid use."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import sample
import train
from minillm.runs import folder
from minillm.training import checkpoint
from minillm.training.step import GradientStep
from tests import tiny
from tests.interruption import ctrl_c_after

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "data.n_stories": 300,
    "tokenizer.vocab_size": 700,
    "model.n_layers": 1,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.context_length": 32,
    "model.dropout": 0.1,
    "train.batch_size": 4,
    "schedule.warmup_steps": 1,
    "train.max_steps": 12,
    "train.eval_every": 5,
    "train.save_every": 4,
    "train.precision": "fp32",
    "text.max_new_tokens": 10,
}


flags = partial(tiny.flags, SMALL)  # flags of a run that takes one second


def start(script, *words, cwd, **how):
    """A script in a process of its own, in which every attempt to reach the network fails."""
    blocked = cwd / "blocked"
    blocked.mkdir(exist_ok=True)
    lines = ["import socket", "def refuse(*_, **__): raise OSError('the network is blocked')"]
    lines += ["socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse"]
    (blocked / "sitecustomize.py").write_text("\n".join(lines))
    env = os.environ | {"PYTHONPATH": str(blocked), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def weights(path):
    return checkpoint.load(path / "checkpoint" / "latest.pt")["step"]


def same(a, b):
    """Bitwise equality of nested tensors, dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that trained to its end, without a network, in a folder far from the project, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    process = start("train.py", "--config", "gpt-tiny", *flags(), cwd=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return folder / "runs" / "gpt-tiny", out


def test_training_says_what_it_does_and_leaves_a_whole_run(finished):
    path, out = finished
    said = ("device cpu", "parameters", "tokens a step", "ln 700 = 6.551", "regret", "a sample", "runs/gpt-tiny")
    assert all(text in out for text in said)
    names = {"config.toml", "tokenizer.json", "metrics.jsonl", "summary.json", "checkpoint"}
    assert names <= {p.name for p in path.iterdir()} and {p.name for p in (path / "checkpoint").iterdir()} == {
        "latest.pt",
        "best.pt",
    }
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 12
    summary = json.loads((path / "summary.json").read_text())
    assert summary["steps"] == 12 and summary["val_loss"] - summary["source_loss"] == pytest.approx(summary["regret"])


def test_sampling_takes_the_newest_run_without_a_network(finished):
    path, _ = finished
    process = start("sample.py", "--top-p", "0.9", "--num-samples", "2", cwd=path.parents[1])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (
        re.match(r"run runs/gpt-tiny \(step 12\); top-p 0.9 -> draw; seed (\d+) \(again: --seed \1\)\n", out)
        and "\n---\n" in out
    )


def test_streamed_text_is_the_text(finished, capsys):
    path, _ = finished
    words = ["--run", str(path), "--prompt", "One day", "--seed", "5", "--top-k", "40", "--max-new-tokens", "25"]
    assert sample.main(words) == 0
    whole = capsys.readouterr().out
    assert sample.main([*words, "--stream"]) == 0
    assert capsys.readouterr().out == whole and "One day" in whole


CACHES = {"contiguous": [], "paged": [], "int8": [], "int4": [], "streaming": ["9"], "h2o": ["9"], "snapkv": ["17"]}


@pytest.mark.parametrize("cache", CACHES)
def test_a_text_is_written_with_the_cache_that_is_asked_for_and_its_bytes_are_told(finished, capsys, cache):
    path, _ = finished
    budget = [word for n in CACHES[cache] for word in ("--cache-budget", n)]
    words = [
        "--run",
        str(path),
        "--prompt",
        "One day",
        "--max-new-tokens",
        "60",
        "--seed",
        "3",
        "--cache",
        cache,
        *budget,
    ]
    assert sample.main(words) == 0
    out = capsys.readouterr().out
    plain = "" if cache == "contiguous" else r", \d+% of the [\d,]+ of the plain cache"
    told = rf"\n{cache} cache: ([\d,]+) bytes held at the end{plain}, after reading 1 x (\d+) tokens\n$"
    n_bytes, n_read = re.search(told, out).groups()
    assert 0 < int(n_bytes.replace(",", "")) < 200_000 and (int(n_read) > 40) == (cache == "streaming")
    assert sample.main([*words, "--stream"]) == 0
    assert capsys.readouterr().out == out


def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(finished, tmp_path):
    path, _ = finished
    killed = tmp_path / "killed"
    words = ["--config", "gpt-tiny", *flags(train__run=killed)]
    for seconds in (0.02, 0.3):  # after the first checkpoint, so at other steps each time
        process = start("train.py", *words, cwd=tmp_path)
        while not (killed / "checkpoint" / "latest.pt").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        time.sleep(seconds)
        process.kill()
        process.communicate()
        words = ["--resume", killed]
        if checkpoint.load(killed / "checkpoint" / "latest.pt")["progress"]["step"] == 12:
            break
    else:
        process = start("train.py", *words, cwd=tmp_path)
        assert process.wait(timeout=120) == 0, process.stderr.read()
    assert same(weights(killed), weights(path))
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("stop_at", [3, 4, 7, 11])
def test_stopping_and_resuming_at_any_step_gives_the_same_bits(finished, tmp_path, stop_at):
    path, _ = finished
    torch.set_num_threads(1)
    stopped = tmp_path / "stopped"
    with ctrl_c_after(GradientStep, stop_at):
        assert train.main(["--config", "gpt-tiny", *flags(train__run=stopped)]) == 130
    assert checkpoint.load(stopped / "checkpoint" / "latest.pt")["progress"]["step"] == stop_at
    assert train.main(["--resume", str(stopped)]) == 0
    assert same(weights(stopped), weights(path))


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_end_of_a_batch_job_and_of_a_terminal_save_as_ctrl_c_does(tmp_path, capsys, signum, status):
    stopped = tmp_path / "stopped"
    with ctrl_c_after(GradientStep, 3, signum):
        assert train.main(["--config", "gpt-tiny", *flags(train__run=stopped)]) == status
    assert (
        f"interrupted at step 3, all saved; continue with: python train.py --resume {stopped}"
        in capsys.readouterr().out
    )
    assert checkpoint.load(stopped / "checkpoint" / "latest.pt")["progress"]["step"] == 3


@pytest.mark.parametrize("earlier", [None, 8, 12])
def test_a_run_that_was_killed_before_its_summary_is_summed_up_by_resuming_it_and_only_then_refused(
    tmp_path, capsys, earlier
):
    path, words = tmp_path / "run", flags()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.report, "finish", lambda *_: None)
        assert train.main(["--config", "gpt-tiny", *words, "--train.run", str(path)]) == 0
    if earlier:
        # as if the same run had ended with fewer steps before
        (path / "summary.json").write_text(json.dumps({"steps": earlier}))
    before = weights(path)
    status = train.main(["--resume", str(path)])
    if earlier == 12:
        assert status == 2 and "has done its 12 steps" in capsys.readouterr().err
        return
    summary = json.loads((path / "summary.json").read_text())
    assert status == 0 and summary["steps"] == 12 and {"val_loss", "test_loss", "train_seconds"} <= summary.keys()
    assert same(weights(path), before)
    assert train.main(["--resume", str(path)]) == 2


def test_ctrl_c_during_the_summary_names_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train.report, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
    assert train.main(["--config", "gpt-tiny", *flags(train__run=tmp_path / "run")]) == 130
    assert (
        f"stopped at once; continue from the last save with: python train.py --resume {tmp_path / 'run'}"
        in capsys.readouterr().err
    )


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(finished, tmp_path):
    path, _ = finished
    full = tmp_path / "full"
    size = (path / "checkpoint" / "latest.pt").stat().st_size

    def little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    words = flags(train__run=full, train__max_steps=4)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    before = (full / "checkpoint" / "latest.pt").read_bytes()
    process = start("train.py", "--resume", full, "--train.max_steps", 8, cwd=tmp_path, preexec_fn=little_room)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "free some space" in err and "Traceback" not in err
    assert (full / "checkpoint" / "latest.pt").read_bytes() == before
    assert {p.name for p in (full / "checkpoint").iterdir()} == {"latest.pt", "best.pt"}


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    words = flags(train__run=tmp_path / "wild", optim__kind="adamw", optim__lr=1e30, train__save_every=1)
    assert train.main(["--config", "gpt-tiny", *words]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in ("step ", "loss", "gradient norm", "learning rate", "latest.pt"))
    saved = weights(tmp_path / "wild")
    assert all(p.isfinite().all() for p in saved["model"].values())


def test_leaked_validation_text_stops_the_run(tmp_path, capsys, monkeypatch):
    original = train.wiring.build_training

    def as_if_leaked(config, data, *models):
        return original(config, data._replace(val_nats=1e7), *models)

    monkeypatch.setattr(train.wiring, "build_training", as_if_leaked)
    assert train.main(["--config", "gpt-tiny", *flags(train__run=tmp_path / "leak")]) == 2
    assert "leaked" in capsys.readouterr().err


def test_a_new_run_starts_from_the_weights_of_another(finished, tmp_path, monkeypatch):
    path, _ = finished
    monkeypatch.chdir(tmp_path)
    assert (
        train.main(
            [
                "--init-from",
                str(path),
                "--train.max_steps",
                "1",
                "--optim.lr",
                "1e-12",
                "--optim.min_lr",
                "1e-13",
                "--optim.muon_lr",
                "1e-12",
                "--train.seed",
                "9",
            ]
        )
        == 0
    )
    new = checkpoint.load(tmp_path / "runs" / "from-gpt-tiny" / "checkpoint" / "latest.pt")["step"]["model"]
    old = checkpoint.load(path / "checkpoint" / "best.pt")["step"]["model"]
    assert all(torch.allclose(new[name], old[name], atol=1e-6) for name in old)


def test_the_first_batch_is_shown_token_by_token(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        train.main(
            ["--config", "gpt-tiny", *flags(model__context_length=150, tokenizer__vocab_size=1500), "--show-batch"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "<|end|>" in out and "counted" in out and not (tmp_path / "runs").exists()


def test_a_profile_says_where_the_time_goes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minillm.training.profile.matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr("minillm.training.profile.copy_rate", lambda *_: 1e9)
    assert train.main(["--config", "gpt-tiny", *flags(), "--profile", "1"]) == 0
    assert re.search(r"time of a step: \d+\.\d ms\n  matmul", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
    for words, sentence in ((["0"], "--profile 0: expected"), (["1", "--dry-run"], "not allowed with")):
        with pytest.raises(SystemExit, match="2"):
            train.main(["--config", "gpt-tiny", "--profile", *words])
        assert sentence in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "gpt-tiny", *flags(), "--dry-run"]) == 0
    assert "run folder runs/gpt-tiny" in capsys.readouterr().out and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["one long text. " * 400, "café 日本 🙂 naïve\n" * 300])
def test_any_text_trains_and_samples(tmp_path, content, capsys):
    (tmp_path / "my.txt").write_text(content, encoding="utf-8")
    words = flags(data__corpus=tmp_path / "my.txt", train__run=tmp_path / "run", tokenizer__vocab_size=400)
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    assert sample.main(["--run", str(tmp_path / "run"), "--prompt", content[:4], "--preset", "balanced"]) == 0
    assert content[:4] in capsys.readouterr().out


BAD_TRAINING = {
    "unknown config": (["--config", "gpt-tinny"], "did you mean gpt-tiny"),
    "no config": ([], "--config"),
    "unknown key": (["--config", "gpt-tiny", "--model.n_layer", "2"], "did you mean --model.n_layers"),
    "wrong type": (["--config", "gpt-tiny", "--model.n_layers", "two"], "expected int >= 1"),
    "out of range": (
        ["--config", "gpt-tiny", "--model.dropout", "1.5"],
        "--model.dropout = 1.5: expected float 0 ... 0.99",
    ),
    "missing corpus": (["--config", "gpt-tiny", "--data.corpus", "nothing.txt"], "nothing.txt"),
    "misspelled corpus": (["--config", "gpt-tiny", "--data.corpus", "storys"], "did you mean stories"),
    "empty corpus": (["--config", "gpt-tiny", "--data.corpus", "empty.txt"], "found nothing"),
    "short text": (
        ["--config", "gpt-tiny", "--data.corpus", "short.txt", "--model.context_length", "176"],
        "lower model.context_length",
    ),
    "hardly a word": (["--config", "gpt-tiny", "--data.corpus", "word.txt"], "expected at least 17"),
    "wrong encoding": (["--config", "gpt-tiny", "--data.corpus", "latin.txt"], "expected UTF-8"),
    "absent run": (["--resume", "nowhere"], "nowhere"),
    "damaged run": (["--resume", "damaged"], "damaged"),
    "two verbs": (["--resume", "damaged", "--init-from", "damaged"], "--init-from"),
    "resume with a config": (["--resume", "damaged", "--config", "gpt-tiny"], "--init-from"),
    "heads that do not divide": (["--config", "gpt-tiny", "--model.n_heads", "7"], "n_heads = 7"),
    "odd rotary heads": (["--config", "gpt-tiny", "--model.d_head", "7"], "d_head = 7"),
    "absent device": (["--config", "gpt-tiny", "--device", "warp"], "--device warp"),
    "muon on gates": (
        ["--config", "gru-tiny", "--optim.kind", "muon", "--train.precision", "fp32"],
        "expected linear layers to train",
    ),
    "muon's rate without muon": (
        ["--config", "gru-tiny", "--optim.muon_lr", "0.1"],
        "--optim.muon_lr would be ignored",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), BAD_TRAINING.values(), ids=BAD_TRAINING.keys())
def test_bad_input_to_training_is_one_sentence_and_status_2(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("too short to learn from")
    Path("word.txt").write_text("too short")
    Path("latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 1000)
    Path("damaged/checkpoint").mkdir(parents=True)
    Path("damaged/checkpoint/latest.pt").write_bytes(b"not a checkpoint")
    quick = [
        word
        for name in ("data.n_stories", "tokenizer.vocab_size")
        if "--config" in words
        for word in (f"--{name}", str(SMALL[name]))
    ]
    try:
        status = train.main([*words, *(quick if "--resume" not in words else [])])
    except SystemExit as e:
        status = e.code
    err = capsys.readouterr().err
    assert status == 2 and sentence in err and err.count("\n") == 1 and "Traceback" not in err


BAD_SAMPLING = {
    "unknown flag": (["--temprature", "1"], "did you mean --temperature"),
    "out of range": (["--top-p", "1.5"], "--top-p = 1.5: expected float 0 ... 1"),
    "unknown preset": (["--preset", "wild"], "factual, balanced, creative"),
    "ignored beside greedy": (["--temperature", "0", "--top-p", "0.5"], "would be ignored"),
    "equal samples": (["--top-k", "1", "--num-samples", "3"], "same text"),
    "long prompt": (["--prompt", "one day " * 100], "expected at most"),
    "empty stop": (["--stop", ""], "non-empty"),
    "unknown cache": (["--cache", "streeming"], "did you mean streaming"),
    "a budget for nothing": (["--cache", "int8", "--cache-budget", "9"], "would be ignored by int8"),
    "a budget alone": (["--cache-budget", "9"], "would be ignored by contiguous"),
    "a cache without a budget": (["--cache", "h2o"], "add --cache-budget"),
    "a budget of sinks": (["--cache", "streaming", "--cache-budget", "4"], "expected more than the 4 sinks"),
    "a budget beyond the context": (
        ["--cache", "streaming", "--cache-budget", "32"],
        "expected less than model.context_length = 32",
    ),
}


@pytest.mark.parametrize(("words", "sentence"), BAD_SAMPLING.values(), ids=BAD_SAMPLING.keys())
def test_bad_input_to_sampling_is_one_sentence_and_status_2(finished, words, sentence, capsys):
    path, _ = finished
    try:
        status = sample.main(["--run", str(path), *words])
    except SystemExit as e:
        status = e.code
    err = capsys.readouterr().err
    assert status == 2 and sentence in err and err.count("\n") == 1 and "Traceback" not in err


def test_sampling_without_any_run_says_how_to_get_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sample.main([]) == 2
    assert "train.py --config gpt-tiny" in capsys.readouterr().err


def test_characters_that_the_tokenizer_lacks_are_named(tmp_path, capsys):
    (tmp_path / "my.txt").write_text("abc abd\n" * 500)
    words = flags(
        data__corpus=tmp_path / "my.txt", train__run=tmp_path / "run", tokenizer__kind="char", train__max_steps=2
    )
    assert train.main(["--config", "gpt-tiny", *words]) == 0
    capsys.readouterr()
    assert sample.main(["--run", str(tmp_path / "run"), "--prompt", "aéb"]) == 2
    assert "é" in capsys.readouterr().err


def test_opening_a_run_draws_nothing_from_torchs_generator(finished):
    before = torch.get_rng_state()
    folder.open_run(finished[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_never_overwritten(finished, monkeypatch, capsys):
    path, _ = finished
    monkeypatch.chdir(path.parents[1])
    assert train.main(["--config", "gpt-tiny", *flags(), "--dry-run"]) == 0
    assert "run folder runs/gpt-tiny-2" in capsys.readouterr().out
    assert train.main(["--config", "gpt-tiny", *flags(train__run=path)]) == 2
    assert "--resume" in capsys.readouterr().err

"""Shared parts of the benchmarks: timing, the GPT-2 twin, and the command that runs all."""

import importlib
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as all_of_them
from benchmarks import gpt2, ladder, readme, record, tuning
from benchmarks.cache_frontier import Row, check_recall, figures
from benchmarks.kernels import KERNELS
from benchmarks.timing import in_turns, rates, ratios, span, timed
from minillm.layers.norm import RMSNorm
from minillm.models.decoder import Decoder
from minillm.runs.config import CONFIGS

FOLDER = Path(readme.__file__).parent
PARTS = {
    "__init__",
    "__main__",
    "claims",
    "goals",
    "gpt2",
    "lessons",
    "readme",
    "record",
    "timing",
}  # they measure nothing
TRICKS = {  # kernel -> file in minillm/speed
    "rms-norm": "rms_norm",
    "squared-relu": "squared_relu",
    "joined-projections": "joined_projections",
    "writing": "low_overhead",
    "ngram-lookups": "ngram_lookups",
    "experts": "experts",
    "muon": "grouped_muon",
    "adamw": "fused_adamw",
    "flat-gradient": "flat_gradient",
    "bfloat16-copy": "grouped_copy",
    "lstm": "recurrent",
    "gru": "recurrent",
    "cross-entropy": "chunked_cross_entropy",
    **dict.fromkeys(("attention-64", "attention-512", "attention-1024"), "written_out_attention"),
}
ELSEWHERE = {"cuda", "cuda_parts", "picture"}  # what needs a card or a run, and has a command of its own


class Clock:
    """Shows what was done."""

    now = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds
        return seconds


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__"))
def test_every_benchmark_finds_what_it_imports_and_names_its_command(name):
    if name == "picture":
        pytest.importorskip("matplotlib")
    text = " ".join(importlib.import_module(f"benchmarks.{name}").__doc__.split())
    named = f"python -m benchmarks.{name}" in text or f"bash benchmarks/{name}.sh" in text
    assert named or name in PARTS | {"cuda_parts"}


@pytest.mark.parametrize("name", [name for name in KERNELS if not name.startswith(("attention-", "cross-entropy"))])
def test_a_twin_is_compared_with_its_plain_code(name):
    seconds = in_turns(KERNELS[name](), 1)
    assert set(seconds) == {"ours", "other"} and all(taken > 0 for [taken] in seconds.values())


@pytest.mark.parametrize(("kernel", "trick"), TRICKS.items())
def test_the_gain_of_a_trick_is_the_measured_one(kernel, trick):
    mean = json.loads(record.FIGURES.read_text(encoding="utf-8"))[f"kernel-{kernel}"]["figures"]["ratio"]["mean"]
    text = importlib.import_module(f"minillm.speed.{trick}").__doc__
    assert f"{mean:.2f} times" in " ".join(text.partition("\nGain: ")[2].split())


def test_every_kernel_has_a_trick_and_a_row_in_the_table():
    shown = {name.removeprefix("kernel-") for name in readme.ROWS if name.startswith("kernel-")}
    assert shown == set(KERNELS) == set(TRICKS) | {"attention-192", "attention-2048"}


def test_plain_code_is_not_compared_with_itself(monkeypatch):
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: x)
    with pytest.raises(SystemExit, match="expected a twin in force"):
        KERNELS["rms-norm"]()


def test_roads_are_taken_in_turns_and_the_first_round_does_not_count():
    clock, taken = Clock(), []

    def road(name, seconds):
        taken.append(name)
        clock.pass_by(seconds.pop(0))

    slow, fast = [100.0, 3.0, 5.0], [100.0, 2.0, 7.0]
    times = in_turns({"slow": lambda: road("slow", slow), "fast": lambda: road("fast", fast)}, 2, clock)
    assert taken == ["slow", "fast"] * 3
    assert times == {"slow": [3.0, 5.0], "fast": [2.0, 7.0]}
    assert ratios(times["slow"], times["fast"]) == [3 / 2, 5 / 7]
    assert rates(21, times["fast"]) == [10.5, 3.0]


def test_timed_returns_the_result_and_its_seconds():
    clock = Clock()
    assert timed(lambda: clock.pass_by(11.0), clock) == (11.0, 11.0)


def test_a_span_is_median_lowest_and_highest():
    assert span([2000.0, 1.0, 5000.0]) == "2,000 (1 ... 5,000)"
    assert span([2, 3], 2) == "2.50 (2.00 ... 3.00)"


def test_the_twin_says_what_the_decoder_says():
    torch.manual_seed(0)
    model = Decoder(replace(gpt2.GPT2, n_layers=2, d_model=15, n_heads=3, context_length=13), 17).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    other, tokens = gpt2.twin(model).double(), torch.randint(17, (5, 11))
    with torch.no_grad():
        torch.testing.assert_close(other(tokens).logits, model.double()(tokens)[0], atol=1e-10, rtol=0)


def test_roads_that_write_different_tokens_are_not_timed():
    linear = torch.nn.Linear(2, 3)
    gpt2.check_equal([linear], {"one": lambda: [[1, 2]], "two": lambda: [[1, 2]]})
    assert linear.weight.dtype == torch.float32
    with pytest.raises(SystemExit, match="one, two"):
        gpt2.check_equal([linear], {"one": lambda: [[1, 2]], "two": lambda: [[1, 3]]})


def test_figures_of_a_cache_tell_its_share():
    rows = [Row("int8", 0.3, 1.0, 0.5, 2.0, 7.0, 11.0), Row("h2o", 1 / 4, 0.9, 0.4, 2.1, 5.0, 13.0)]
    found = figures(rows)
    assert found["int8_asked"] == 1.0 and found["h2o_25_later"] == 0.4
    assert len(found) == 12


def test_every_benchmark_is_run_by_the_command_for_all():
    run = {command.split()[0].partition("{")[0] for command in all_of_them.COMMANDS.values()}
    assert run == {path.stem for path in FOLDER.glob("*.py")} - PARTS - ELSEWHERE


def test_runs_are_trained_once_and_a_failure_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    started = []

    def succeeds(command):
        started.append(shlex.join(command[1:]))
        if command[1] == "train.py":
            path = Path(command[-1])
            path.mkdir()
            (path / "summary.json").touch()
        return "weights" not in command[2]

    monkeypatch.setattr(all_of_them, "succeeds", succeeds)
    assert all_of_them.measure(["weights-loss", "lora", "shakespeare-race"], tmp_path, "/some where/plays.txt") == [
        "weights-loss"
    ]
    assert started == [
        f"train.py --config gpt-tiny --train.run {tmp_path}/gpt-tiny",
        f"-m benchmarks.weights --run {tmp_path}/gpt-tiny",
        f"-m benchmarks.lora --run {tmp_path}/gpt-tiny --seeds 3",
        "-m benchmarks.shakespeare --steps 130 --look-every 5 --classic-steps 2000 --corpus '/some where/plays.txt'",
    ]


def test_what_is_trained_first_is_a_config():
    needed = {run for command in all_of_them.COMMANDS.values() for run in all_of_them.trained(command)}
    assert needed == {"gpt-tiny", "gpt-target", "gpt-draft", "gpt-draft-distilled"}
    assert all((CONFIGS / f"{run}.toml").exists() for run in needed)


def test_a_student_is_trained_after_its_teacher_and_beside_it(tmp_path):
    assert all_of_them.trained(all_of_them.COMMANDS["speculative-distilled"]) == ["gpt-target", "gpt-draft-distilled"]
    command = all_of_them.training("gpt-draft-distilled", tmp_path)
    assert command[4:6] == ["--task.teacher", str(tmp_path / "gpt-target")]


@pytest.mark.parametrize(("asked", "later", "enough"), [(0.9, 0.5, True), (0.9, 0.06, False), (0.06, 0.9, False)])
def test_what_was_never_learned_is_not_called_forgotten(asked, later, enough):
    exact = Row("contiguous", 1.0, asked, later, 1.3, 100.0, 10.0)
    if enough:
        check_recall(exact)
    else:
        with pytest.raises(SystemExit, match="train longer"):
            check_recall(exact)


FIGURES = dict.fromkeys(ladder.FIGURES, 1.0)


@pytest.mark.parametrize("write", [False, True])
def test_the_ladder_keeps_its_results_only_if_it_is_told_to(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ladder, "LADDER", tmp_path / "ladder.json")
    asked = []
    monkeypatch.setattr(ladder, "measure", lambda *how: asked.append(how) or FIGURES)
    ladder.main(["--seconds", "7", "--seed", "3", *(["--write"] if write else [])])
    assert [how[2:] for how in asked] == [(7.0, 3)] * len(ladder.RUNGS) and "| GPT |" in capsys.readouterr().out
    assert (tmp_path / "ladder.json").exists() == write
    if write:
        kept = json.loads((tmp_path / "ladder.json").read_text())
        assert (kept["seconds"], kept["seed"], set(kept["models"])) == (7.0, 3, set(ladder.RUNGS))


WRONG = {
    "no time": (["--seconds", "0"], "--seconds 0: expected a number >= 1"),
    "less than none": (["--seconds", "-5"], "--seconds -5: expected"),
    "for ever": (["--seconds", "inf"], "--seconds inf: expected"),
    "no number": (["--seconds", "nan"], "--seconds nan: expected"),
    "a word": (["--seconds", "long"], "invalid float value: 'long'"),
    "no seed": (["--seed", "-1"], "--seed -1: expected int 0 ... "),
    "a large seed": (["--seed", str(2**70)], "expected int 0 ... "),
    "a slip": (["--second", "3"], "did you mean --seconds"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG)
def test_a_ladder_that_cannot_be_climbed_is_refused_in_a_sentence_before_anything_is_trained(
    words, sentence, monkeypatch, capsys
):
    monkeypatch.setattr(ladder, "measure", None)
    with pytest.raises(SystemExit, match="2"):
        ladder.main(words)
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_the_tokens_of_a_training_are_those_of_all_its_steps(tmp_path):
    rows = [{"step": 1, "tokens": 5}, {"step": 10, "tokens": 7}, {"step": 20, "val_loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tuning.n_tokens(tmp_path) == 6 * 20

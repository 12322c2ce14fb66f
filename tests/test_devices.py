"""The CPU alone suffices, and CUDA is never touched then; with CUDA, everything runs on it too."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import sample
import train
from minillm.datasets.batch import Batch, moved
from minillm.objectives.next_token import next_token
from minillm.training.precision import seconds_per_pass
from tests import tiny
from tests.test_cli import SMALL
from tests.training.test_step import a_real_step, batch_of

ROOT = Path(__file__).resolve().parents[1]
flags = partial(tiny.flags, SMALL | {"train.max_steps": 3})
without_one = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# Every public function of torch.cuda and its submodules raises. The one exception: torch.manual_seed itself calls
# torch.cuda.manual_seed_all, which would only store the seed for a later device; here it does nothing.
FORBID = """
import inspect, sys, torch
def forbid(name):
    def touched(*_, **__):
        raise AssertionError(f"torch.cuda.{name} was touched")
    return touched
found = [m for m in vars(torch.cuda).values() if inspect.ismodule(m) and m.__name__.startswith("torch.cuda.")]
for module in [torch.cuda, *found]:
    for name, found in list(vars(module).items()):
        if inspect.isfunction(found) and not name.startswith("_"):
            setattr(module, name, forbid(name))
torch.cuda.manual_seed_all = lambda seed: None
"""


def run_without_cuda(code: str, cwd: Path) -> subprocess.CompletedProcess:
    """In a process in which nothing of minillm was imported before."""
    command = [sys.executable, "-c", f"{FORBID}\nsys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_on_the_processor_no_function_of_torch_cuda_is_called(tmp_path):
    words = flags(train__run="run", train__precision="auto", train__log_every=1)
    lines = ["import minillm.runs.wiring, train, sample"]
    lines += [f"assert train.main(['--config', 'gpt-tiny', '--device', 'cpu', *{words!r}]) == 0"]
    lines += ["assert train.main(['--resume', 'run', '--device', 'cpu', '--train.max_steps', '4']) == 0"]
    lines += ["assert sample.main(['--run', 'run', '--device', 'cpu', '--max-new-tokens', '3', '--top-p', '0.9']) == 0"]
    done = run_without_cuda("\n".join(lines), tmp_path)
    assert done.returncode == 0, done.stderr


def test_that_would_be_noticed(tmp_path):
    done = run_without_cuda("import minillm.runs.wiring; minillm.runs.wiring.find_device('auto')", tmp_path)
    assert "torch.cuda.is_available was touched" in done.stderr, "the one question, and the one place where it is asked"


def test_a_batch_of_any_kind_moves_whole():
    batch = batch_of()
    there = moved(batch, torch.device("meta"))
    assert type(there) is Batch and all(part.device.type == "meta" for part in there)
    assert all(a is b for a, b in zip(moved(batch, torch.device("cpu")), batch, strict=True)), (
        "nothing is copied for nothing"
    )


@without_one
@pytest.mark.cuda
@pytest.mark.parametrize("large", [0, 10**9])
def test_steps_on_cuda_are_those_on_the_processor(large):
    results = []
    for device in ("cpu", "cuda"):
        step = a_real_step(tiny.decoder().to(device), objective=partial(next_token, large=large))
        results.append([step(batch_of(i)) for i in range(3)])
    for a, b in zip(*results, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


@without_one
@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_cuda_a_step_goes_on_from_its_state_dropout_included(precision, tmp_path):
    make = lambda seed: a_real_step(tiny.decoder(seed, dropout=0.3).float().cuda(), precision=precision)  # noqa: E731
    straight, resumed = make(0), make(1)
    straight(batch_of(0))
    torch.save(straight.state_dict(), tmp_path / "state")
    expected = straight(batch_of(1))["loss"]
    torch.cuda.manual_seed(99)
    resumed.load_state_dict(torch.load(tmp_path / "state", map_location="cpu"))
    assert resumed(batch_of(1))["loss"] == pytest.approx(expected, rel=1e-6)


@without_one
@pytest.mark.cuda
def test_a_batch_reaches_cuda_and_the_trial_of_precisions_runs_there():
    batch = batch_of()
    there = moved(batch, torch.device("cuda"))
    assert all(torch.equal(a.cpu(), b) and a.is_cuda for a, b in zip(there, batch, strict=True))
    assert moved(there, torch.device("cuda")).tokens is there.tokens
    assert set(seconds_per_pass(tiny.decoder().float().cuda(), next_token, batch)) == {"fp32", "bf16"}


@without_one
@pytest.mark.cuda
def test_a_run_trains_resumes_profiles_and_writes_on_cuda(tmp_path, capsys):
    path, device = str(tmp_path / "run"), "cuda"
    assert (
        train.main(["--config", "gpt-tiny", "--device", device, *flags(train__run=path, train__precision="auto")]) == 0
    )
    assert "taking" in capsys.readouterr().out
    assert train.main(["--resume", path, "--device", device, "--train.max_steps", "5"]) == 0
    assert (
        train.main(
            ["--config", "gpt-tiny", "--device", device, *flags(train__run=tmp_path / "other"), "--profile", "2"]
        )
        == 0
    )
    assert sample.main(["--run", path, "--device", device, "--max-new-tokens", "5"]) == 0

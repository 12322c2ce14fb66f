"""A profile equals counts by hand, and its parts add up to the whole."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minillm.datasets.batch import Batch
from minillm.objectives.next_token import next_token
from minillm.training import profile as profiling
from minillm.training.optim import OptimConfig, build_optimizer
from minillm.training.profile import PARTS, Profile, Traffic, profile
from minillm.training.step import GradientStep
from tests.tiny import decoder, tokens


def test_a_step_of_a_decoder_is_shared_out(monkeypatch):
    monkeypatch.setattr(profiling, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(profiling, "copy_rate", lambda *_: 1e9)
    model, text = decoder(tied=False).float(), tokens(3, 8)
    step = GradientStep(model, next_token, build_optimizer(model, OptimConfig()), lambda step: 1.0, lr=1e-3)
    found = profile(step, lambda i: Batch(text[:, :-1], text[:, 1:]), 2, "cpu", "fp32")
    assert tuple(found.seconds) == PARTS and all(seconds >= 0 for seconds in found.seconds.values())
    assert all(found.seconds[part] > 0 for part in ("matmul", "attention", "optimizer", "other"))
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    n_tokens = 3 * 7
    assert found.n_operations > 6 * weights * n_tokens, "each weight is used once forward and twice backward"
    assert (
        "matmul" in str(found) and "arithmetic" in str(found) and f"{found.n_operations / 1e9:.2f} GFLOP" in str(found)
    )


def test_the_shares_of_a_profile_are_percentages_of_the_whole():
    text = str(Profile({"matmul": 0.03, "other": 0.01}, 2 * 10**9, 4 * 10**8, 1e11, 2e10))
    assert "time of a step: 40.0 ms" in text and "75.0 %" in text and "25.0 %" in text
    assert "50.0 of 100.0 GFLOP/s, 50 %" in text and "10.0 of 20.0 GB/s, 50 %" in text


def test_traffic_counts_what_is_read_and_written_and_no_views():
    a, b = torch.zeros(5, 7), torch.zeros(7, 3)
    with Traffic() as traffic:
        a @ b.T.T
    assert traffic.n_bytes == 4 * (5 * 7 + 7 * 3 + 5 * 3)
    with Traffic() as traffic:
        a.T.view(7, 5)[2:]
        assert traffic.n_bytes == 0


@pytest.mark.parametrize(
    "rate", [lambda: profiling.matmul_rate(torch.float32, n=64), lambda: profiling.copy_rate(n_bytes=2**16)]
)
def test_rates_are_positive(rate):
    assert 1e6 < rate() < 1e15


QUIET = """
from tests.training.test_profile import *
model, text = decoder().float(), tokens(3, 8)
step = GradientStep(model, next_token, build_optimizer(model, OptimConfig()), lambda step: 1.0, lr=1e-3)
profiling._shares(step, lambda i: Batch(text[:, :-1], text[:, 1:]), 1, "cpu")
"""


@pytest.mark.slow
def test_the_profiler_writes_nothing_of_its_own():
    done = subprocess.run([sys.executable, "-c", QUIET], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

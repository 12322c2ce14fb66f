"""Freed memory is kept where the C library allows it; elsewhere nothing happens."""

import subprocess
import sys

import pytest

from minillm.speed import allocator

# subtle: with pages of 2 MB, few faults stand for much memory; prctl(41) = PR_SET_THP_DISABLE selects pages of 4 KB
STEPS = """
import ctypes, resource, torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
from torch import nn
from minillm.speed.allocator import keep_freed_memory
if {keep}: assert keep_freed_memory()
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.GELU(), nn.Linear(256, 64))
x = torch.randn(1024, 64)
for i in range(64):
    if i == 16: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    net(x).square().sum().backward()
    net.zero_grad()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
@pytest.mark.slow
def test_steps_that_keep_what_they_free_touch_few_fresh_pages():
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, "-c", STEPS.format(keep=keep)], capture_output=True, text=True, check=True
            ).stdout
        )
        for keep in (True, False)
    )
    assert 4 * kept < given_back


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()

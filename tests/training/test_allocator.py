"""Freed memory is kept where the C library can, and nobody minds where it cannot."""

import subprocess
import sys

import pytest

from minillm.training import allocator

CODE = """
import resource, torch
from minillm.training.allocator import keep_freed_memory
if {keep}: assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for i in range(9):
    before = faults()
    x = torch.empty(2**22).fill_(1.0)
    del x
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_was_freed_is_used_again_without_a_single_page_fault_for_its_pages():
    faults = [
        int(subprocess.run([sys.executable, "-c", CODE.format(keep=keep)], capture_output=True, text=True, check=True).stdout)
        for keep in (True, False)
    ]
    assert faults[0] < 50 < 2**24 / 4096 / 2 < faults[1]


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()

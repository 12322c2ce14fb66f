"""Out of memory: a sentence with the bytes needed for every allocator's message, and no killed process."""

import resource
import sys

import numpy as np
import pytest
import torch

import sample
import train
from minillm.system.out_of_memory import bytes_asked, free_bytes, memory_errors_as_value_errors

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")
MESSAGES = {
    "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 64000 bytes.": 64000,
    "DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes.": 7,
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB": 5 * 2**29,
    "MPS backend out of memory (MPS allocated: 9.00 GiB). Tried to allocate 256 bytes on private pool.": 256,
    "Unable to allocate 7.45 TiB for an array with shape (1000000, 1000000)": round(7.45 * 2**40),
    "Storage size calculation overflowed with sizes=[4000000000, 3000000000]": 4 * 12 * 10**18,
    "std::bad_alloc": None,
}


@pytest.mark.parametrize(("message", "n_bytes"), MESSAGES.items(), ids=range(len(MESSAGES)))
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_the_bytes_that_an_allocator_was_asked_for_are_told(message, n_bytes, error):
    needed = f"{n_bytes:,} bytes were needed at once" if n_bytes else "more was needed"
    with (
        pytest.raises(ValueError, match=f"^out of memory: {needed}; ask for less$"),
        memory_errors_as_value_errors("ask for less", limited=False),
    ):
        raise error(message)
    assert bytes_asked(message) == n_bytes


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), ValueError("y")]
)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as raised, memory_errors_as_value_errors("", limited=False):
        raise error
    assert raised.value is error


WAYS = {"torch": lambda n: torch.empty(n // 4), "numpy": lambda n: np.empty(n, dtype=np.uint8), "python": bytearray}


@on_linux
@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
def test_what_is_more_than_there_is_fails_where_it_is_asked_for_before_a_page_is_touched(ask):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_errors_as_value_errors("", limited=True):
        ask(2**20)
    said = r"^out of memory: .* and [\d,]+ were free; ask for less"
    with pytest.raises(ValueError, match=said), memory_errors_as_value_errors("ask for less", limited=True):
        ask(free_bytes() + 2**28)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@on_linux
def test_an_allocation_that_fails_leaves_a_script_with_status_2_and_one_sentence(monkeypatch, capsys):
    for script, advice in ((train, "lower train.batch_size"), (sample, "lower --beams")):
        monkeypatch.setattr(script, "go", lambda *_: torch.empty(10**15))
        assert script.main(["--config", "gpt-tiny", "--device", "cpu"] if script is train else ["--device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert (
            "out of memory: 4,000,000,000,000,000 bytes were needed at once" in err
            and advice in err
            and err.count("\n") == 1
        )


def test_several_processes_would_train_equal_runs_and_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(train, "go", lambda *_: None)
    for n, status in ((None, 0), ("1", 0), ("2", 2), ("16", 2)):
        if n is not None:
            monkeypatch.setenv("WORLD_SIZE", n)
        assert train.main(["--config", "gpt-tiny", "--device", "cpu"]) == status
        err = capsys.readouterr().err
        assert ("equal runs" in err and f"WORLD_SIZE = {n}: expected 1" in err) if status else not err

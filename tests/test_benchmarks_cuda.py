"""The measurement of a card, run on the CPU: each part has figures or an error."""

import json
import subprocess

import pytest
import torch

from benchmarks import cuda
from benchmarks.cuda import ROOT, Job, apart, card, measure


def test_a_part_that_fails_is_told_and_the_others_are_measured(tmp_path, monkeypatch):
    said = {
        "tests": {"passed": 3, "failed": {"a": "b"}},
        "gpt-tiny": {"error": "out of luck"},
        "training": {"tokens_per_second": 7},
    }
    limits = []
    monkeypatch.setattr(cuda, "apart", lambda name, job, limit: limits.append(limit) or said[name])
    out, job = tmp_path / "new" / "cuda.json", Job("cpu", True, tmp_path)
    for names in (["training"], ["training", "tests"], ["gpt-tiny", "training"]):
        assert measure(job, names, out, 60) == (names == ["training"])
        found = json.loads(out.read_text())[card("cpu")]
        assert {name: {**found[name], "seconds": 0} for name in names} == {
            name: {**said[name], "seconds": 0} for name in names
        }
        assert found["torch"] == torch.__version__
    assert max(limits) < 60, "never longer than all parts together may take"


def test_what_other_cards_found_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda, "apart", lambda *_: {})
    out = tmp_path / "cuda.json"
    out.write_text(json.dumps({"another card": {"torch": "2"}}))
    measure(Job("cpu", True, tmp_path), ["training"], out, 60)
    assert json.loads(out.read_text()).keys() == {"another card", card("cpu")}


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_ended_and_one_that_ends_without_figures_is_told(tmp_path):
    assert apart("decoding", Job("cpu", True, tmp_path), 0.05) == {"error": "took more than 0 s"}
    assert apart("decoding", Job("abacus", True, tmp_path), 100) == {"error": "ended with status 2"}


def test_a_part_in_which_something_is_raised_says_what(tmp_path, monkeypatch):
    def out_of_luck(job):
        raise RuntimeError("no luck")

    monkeypatch.setitem(cuda.PARTS, "training", (out_of_luck, 1))
    assert cuda.main(["--device", "cpu", "--part", "training", "--folder", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "training.json").read_text()) == {"error": "RuntimeError: no luck"}


@pytest.mark.slow
def test_the_whole_script_runs_on_the_processor(tmp_path):
    out = tmp_path / "cuda.json"
    done = subprocess.run(
        ["bash", ROOT / "benchmarks" / "cuda.sh", "--device", "cpu", "--small", "--out", out], cwd=tmp_path
    )
    assert done.returncode == 0
    [found] = json.loads(out.read_text()).values()
    assert found["tests"]["skipped"] > 10 and not found["tests"]["failed"]
    assert (
        set(cuda.PARTS) <= set(found)
        and found["speculation"]["greedy"]["equal_texts"] == found["speculation"]["greedy"]["texts"]
    )
    rates = [
        found["decoding"]["gpt-target bf16"]["graph_tokens_per_second"],
        found["training"]["gpt-tiny fp32"]["tokens_per_second"],
    ]
    assert min(rates) > 0

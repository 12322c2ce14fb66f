"""The results of the shipped recipes, trained in full: minutes, so only with -m slow."""

import json

import pytest

import train
from benchmarks.figures import valid_stories
from minillm.runs.config import load_config


@pytest.mark.slow
def test_gpt_tiny_learns_to_tell_stories_that_are_mostly_whole(tmp_path):
    assert train.main(["--config", "gpt-tiny", "--train.run", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["regret"] < 0.08 * summary["source_loss"]
    assert summary["val_loss"] == pytest.approx(load_config("gpt-tiny").about.expected_loss, abs=0.05)
    assert valid_stories(tmp_path / "run", n=100) > 0.5


@pytest.mark.slow
def test_translate_tiny_translates_nineteen_of_twenty_sentences_with_combinations_that_it_never_saw(tmp_path):
    assert train.main(["--config", "translate-tiny", "--train.run", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["exact_match"] >= 0.95 and summary["test_exact_match"] >= 0.95

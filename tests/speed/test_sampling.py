"""sample.py uses the accelerated model, with --plain no twin, and always the current source."""

import pytest
import torch

from minillm.layers.norm import RMSNorm
from minillm.speed import signing
from minillm.text import model as text_model
from tests.test_sample import MODEL, asked, opened

WAYS = {
    "sampled": ["--seed", 3, "--top-p", 0.9, "--num-samples", 2],
    "streamed": ["--seed", 3, "--stream"],
    "another cache": ["--seed", 3, "--cache", "paged"],
    "beams": ["--beams", 3],
    "the best of several": ["--seed", 3, "--best-of", 3],
    "explained": ["--seed", 3, "--explain"],
    "with a draft": ["--seed", 3, "--draft", "prompt"],
}


@pytest.fixture
def accelerated(monkeypatch) -> list[object]:
    """The models for which a tree was requested."""
    asked_for, real = [], text_model.accelerate
    for name in ("accelerate", "accelerate_writing"):
        monkeypatch.setattr(text_model, name, lambda model: asked_for.append(model) or real(model))
    return asked_for


def texts(words: list[object], *more: str) -> str:
    """The printed text without the speed."""
    return asked(*words, *more).partition("\nper call")[0]


@pytest.mark.parametrize("way", WAYS)
def test_plain_writes_the_same_without_a_twin(way, accelerated):
    fast = texts(WAYS[way])
    assert accelerated and all(model is MODEL for model in accelerated)
    accelerated.clear()
    assert texts(WAYS[way], "--plain") == fast
    assert accelerated == []


def test_scores_are_those_of_the_plain_model():
    text = opened().text
    fast = text.score(["abc", "a"], ["d", "bcd"])
    text.fast = False
    assert fast == pytest.approx(text.score(["abc", "a"], ["d", "bcd"]), abs=1e-9)


def test_a_changed_line_is_what_is_written_by(monkeypatch, caplog):
    monkeypatch.setattr(signing, "_said", set())
    before = texts(WAYS["sampled"])
    monkeypatch.setattr(RMSNorm, "forward", lambda self, x: torch.tanh(x) * 5)
    after = texts(WAYS["sampled"])
    assert after != before and after == texts(WAYS["sampled"], "--plain")
    assert "minillm.layers.norm.RMSNorm was replaced in this process" in caplog.text

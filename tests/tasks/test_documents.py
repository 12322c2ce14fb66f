"""From a corpus to token streams: what is said of the source, and who sees which part."""

import math

import pytest
import torch
from torch import nn

from minillm import run
from minillm.datasets import corpus
from minillm.datasets.cleaning import clean
from minillm.datasets.split import split
from minillm.datasets.stories import World
from minillm.flags import override
from minillm.run_config import RunConfig, load_config
from minillm.training.evaluate import LEAK_NATS, Leak
from tests.datasets.test_source import GRAMMAR


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The corpus "stories" is a world so small that whole stories can be weighed."""
    path = tmp_path / "small.txt"
    path.write_text(GRAMMAR)
    monkeypatch.setitem(corpus.WORLDS, "stories", path)
    return World(path)


def tiny(**changes) -> RunConfig:
    settings = {"tokenizer.kind": "byte", "model.context_length": 64, "data.n_stories": 600}
    settings |= {"data.val_fraction": 0.2, "data.test_fraction": 0.1}
    settings |= {"cleaning.min_chars": 0, "cleaning.max_symbols": 1, "cleaning.duplicates": "false", "cleaning.near_duplicates": 0}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return override(load_config("gpt-tiny"), {name: str(value) for name, value in settings.items()})


def built(config: RunConfig, say=lambda line: None):
    return run.build_data(config, say=say)


class Guess(nn.Module):
    """Every token is as likely as any other."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size, self.anything = vocab_size, nn.Parameter(torch.zeros(()))

    def forward(self, tokens, state=None):
        return torch.zeros(*tokens.shape, self.vocab_size), state


def test_the_loss_of_the_source_is_that_of_the_stories_that_cleaning_kept(world):
    lines = []
    config = tiny(data__clean="true", cleaning__max_chars=35)
    data = built(config, lines.append)
    written = world.generate(600, config.data.seed)
    kept, _ = clean(written, config.cleaning)
    assert 100 < len(kept) < 500
    splits = split(kept, 0.2, 0.1)
    for part, nats in ((splits.val, data.val_nats), (splits.test, data.test_nats)):
        assert nats == pytest.approx(sum(math.log(len(kept) / 600) - world.log_prob(story) for story in part))
    assert any(f"{len(kept)} of 600 stories that cleaning kept" in line for line in lines)
    validation = run.build_validation(config, data)
    assert validation.source_nats == data.val_nats
    error = math.sqrt((1 - len(kept) / 600) / len(kept)) * len(splits.val)
    assert validation.leak_nats == pytest.approx(LEAK_NATS + 6 * error)


@pytest.mark.parametrize(
    "changes",
    [
        {"data__n_stories": 1, "model__context_length": 8},
        {"data__clean": "true", "cleaning__duplicates": "true"},
        {"data__clean": "true", "cleaning__near_duplicates": 0.5},
    ],
)
def test_where_the_source_is_no_measure_none_is_stated_and_nothing_is_called_a_leak(world, changes):
    lines = []
    config = tiny(**changes)
    data = built(config, lines.append)
    assert data.val_nats is None and data.test_nats is None
    assert sum("regret is not measured and no leak is noticed" in line for line in lines) == 1
    metrics = run.build_validation(config, data)(Guess(data.tokenizer.vocab_size))
    assert metrics.keys() == {"val_loss", "bits_per_byte"} and math.isfinite(metrics["val_loss"])


def test_the_whole_corpus_has_the_source_itself(world):
    lines = []
    config = tiny()
    data = built(config, lines.append)
    val = split(world.generate(600, config.data.seed), 0.2, 0.1).val
    assert data.val_nats == pytest.approx(-math.fsum(map(world.log_prob, val))) and lines == []
    with pytest.raises(Leak):
        run.build_validation(config, data._replace(val_nats=1e6))(Guess(data.tokenizer.vocab_size))

"""From a corpus to token streams: remarks about the source, and the text of each part."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from minillm.config.flags import override
from minillm.datasets import corpus
from minillm.datasets.cleaning import clean
from minillm.datasets.labels import ending
from minillm.datasets.pairs import split_pairs
from minillm.datasets.split import split
from minillm.datasets.stories import World
from minillm.evaluation.validation import LEAK_NATS, Leak
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.tasks import documents, translate
from minillm.tokenizers.build_tokenizer import train_tokenizer
from tests.datasets.test_source import GRAMMAR


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Make the corpus "stories" a grammar so small that the probability of every story is known."""
    path = tmp_path / "small.txt"
    path.write_text(GRAMMAR)
    monkeypatch.setitem(corpus.WORLDS, "stories", path)
    return World(path)


def tiny(**changes) -> RunConfig:
    settings = {"tokenizer.kind": "byte", "model.context_length": 64, "data.n_stories": 600}
    settings |= {"data.val_fraction": 0.2, "data.test_fraction": 0.1}
    settings |= {
        "cleaning.min_chars": 0,
        "cleaning.max_symbols": 1,
        "cleaning.duplicates": "false",
        "cleaning.near_duplicates": 0,
    }
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    return override(load_config("gpt-tiny"), {name: str(value) for name, value in settings.items()})


def built(config: RunConfig, say=lambda line: None):
    return wiring.build_data(config, say=say)


class Guess(nn.Module):
    """A model that gives all tokens the same probability."""

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
    validation = wiring.build_validation(config, data)
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
    assert sum("regret is not measured and no leak is detected" in line for line in lines) == 1
    metrics = wiring.build_validation(config, data)(Guess(data.tokenizer.vocab_size))
    assert metrics.keys() == {"val_loss", "bits_per_byte"} and math.isfinite(metrics["val_loss"])


TEXTS = [f"{word} and {i} {word}s went home to think." for i in range(40) for word in ("cat", "dog", "snail")]


@pytest.mark.parametrize("config", ["gpt-tiny", "ngram-tiny", "encoder-tiny", "lstm-tiny"])
def test_a_list_of_strings_and_an_iterator_are_learned_from(config):
    small = {
        "tokenizer.kind": "byte",
        "model.context_length": "16",
        "data.val_fraction": "0.2",
        "data.test_fraction": "0.2",
    }
    config, lines = override(load_config(config), small), []
    for texts in (TEXTS, iter(TEXTS)):
        data = wiring.build_data(config, say=lines.append, corpus=corpus.corpus_of(texts))
        written = [data.tokenizer.decode(part.ids) for part in (data.train, data.val, data.test)]
        assert written == ["".join(part) for part in split(TEXTS, 0.2, 0.2)]
        assert data.documents and data.val_nats is None and lines == []
        wiring.build_batches(config, data)(0)
    with pytest.raises(ValueError, match="corpus = texts: expected none, since pairs are learned here"):
        wiring.build_data(load_config("translate-tiny"), corpus=corpus.corpus_of(TEXTS))


def test_what_was_read_of_own_files_is_said(tmp_path):
    (tmp_path / "my.txt").write_text("some words to learn from " * 99)
    lines = []
    wiring.build_data(override(tiny(), {"data.corpus": str(tmp_path / "my.txt")}), say=lines.append)
    assert lines == [f"{tmp_path / 'my.txt'}: read as one text, {99 * 25:,} characters"]


@pytest.mark.parametrize("name", ["gpt-tiny", "ngram-tiny", "encoder-tiny", "encoder-ending", "translate-tiny"])
def test_a_tokenizer_is_trained_on_the_training_part_alone(name, tmp_path):
    config = override(load_config(name), {"data.n_stories": "60"})
    seen = []
    if name == "translate-tiny":
        (tmp_path / "my.tsv").write_text("".join(f"{text}\t{text[::-1]}\n" for text in TEXTS))
        config = override(
            config, {"data.corpus": str(tmp_path / "my.tsv"), "data.val_fraction": "0.2", "data.test_fraction": "0.2"}
        )
        parts = split_pairs(corpus.load_pairs(config.data), 0.2, 0.2)
        expected = [" " + pair.source for pair in parts.train] + [" " + pair.target for pair in parts.train]
    elif name == "encoder-ending":
        texts = documents.read_texts(config, seen.append)
        expected = [ending(texts.world, story)[0] for story in texts.splits.train]
    else:
        config = override(config, {"data.val_fraction": "0.2", "data.test_fraction": "0.2"})
        expected = split(TEXTS, 0.2, 0.2).train

    def watched(given, texts):
        seen.extend(texts)
        return train_tokenizer(replace(given, kind="byte"), texts)

    with pytest.MonkeyPatch.context() as patched:
        for module in (documents, translate):
            patched.setattr(module, "train_tokenizer", watched)
        own = corpus.corpus_of(TEXTS) if name in ("gpt-tiny", "ngram-tiny", "encoder-tiny") else None
        wiring.build_data(config, say=lambda line: None, corpus=own)
    assert seen == expected


def test_the_whole_corpus_has_the_source_itself(world):
    lines = []
    config = tiny()
    data = built(config, lines.append)
    val = split(world.generate(600, config.data.seed), 0.2, 0.1).val
    assert data.val_nats == pytest.approx(-math.fsum(map(world.log_prob, val))) and lines == []
    with pytest.raises(Leak):
        wiring.build_validation(config, data._replace(val_nats=1e6))(Guess(data.tokenizer.vocab_size))

"""The benchmark of cleaning: what is planted, what cleaning leaves, and its measures on cases with known results."""

import math
import random
from collections import Counter

import pytest

from benchmarks.data_cleaning import FOOTERS, Spoiled, alarm, corpora, noise, regret, spoil
from minillm.config.flags import override
from minillm.datasets.split import Splits
from minillm.datasets.stories import World
from minillm.runs import wiring
from minillm.runs.config import load_config
from tests.tasks.test_documents import Guess

HOW = Spoiled(footers=0.5, repeated=0.1, copies=7, noise=0.5, leaks=3)
STORIES = Splits(*(World().generate(n, seed) for seed, n in enumerate((40, 5, 3))))


def test_what_is_planted_is_there_in_its_number():
    documents = spoil(STORIES, HOW, seed=1)
    whole = Counter(story for story in STORIES.train for document in documents if document.startswith(story))
    assert len(documents) == 40 + 4 * 7 + 20 + 5 * 3
    assert sorted(whole.values()) == [1] * 36 + [8] * 4
    assert 10 < sum(document.endswith(FOOTERS) for document in documents) < 30
    assert [sum(document.startswith(story) for document in documents) for story in STORIES.val] == [3] * 5
    assert not set(STORIES.val) & set(documents), "the split by content must not notice"
    assert not any(document.startswith(tuple(STORIES.test)) for document in documents)
    assert documents == spoil(STORIES, HOW, seed=1) != spoil(STORIES, HOW, seed=2)


def test_cleaning_takes_all_of_it_away(capsys):
    trained_on = corpora(STORIES, HOW, seed=1)
    assert trained_on["pure"] == STORIES.train and trained_on["raw"] == spoil(STORIES, HOW, seed=1)
    stories = [document for document in trained_on["cleaned"] if document.startswith(tuple(STORIES.train))]
    assert sorted(document.split("\n")[0] for document in stories) == sorted(STORIES.train)
    assert len(trained_on["cleaned"]) - len(stories) <= 1, "of random letters, some have a stop word"
    assert sum("\n" in document for document in stories) <= len(FOOTERS), "the first copy of each footer stays"
    assert not any(document.startswith(tuple(STORIES.val)) for document in trained_on["cleaned"])
    assert "phone numbers" in capsys.readouterr().out


def test_noise_is_of_every_kind():
    draw = random.Random(0)
    documents = [noise(draw) for _ in range(30)]
    assert len({document[:3] for document in documents if not document.startswith("the best")}) > 10
    assert 3 < sum(document.startswith("the best") for document in documents) < 20


@pytest.mark.parametrize("part", ["val", "test"])
def test_regret_is_the_share_above_the_entropy_and_the_alarm_rings_below_it(part):
    config = override(load_config("gpt-tiny"), {"data.n_stories": "60", "tokenizer.kind": "byte"})
    config = override(config, {"data.val_fraction": "0.2", "data.test_fraction": "0.2"})
    data = wiring.build_data(config, say=lambda line: None)
    model = Guess(data.tokenizer.vocab_size)
    stream = {"val": data.val, "test": data.test}[part]
    nats = (len(stream.ids) - 1) * math.log(data.tokenizer.vocab_size)
    told = data._replace(val_nats=nats / 1.25, test_nats=nats / 1.25)
    bits, percent = regret(config, told, model, part)
    assert bits == pytest.approx(nats / math.log(2) / stream.n_bytes)
    assert percent == pytest.approx(25)
    assert not alarm(config, told, model)
    below = data._replace(val_nats=nats * 2, test_nats=nats * 2)
    assert regret(config, below, model, part)[1] == pytest.approx(-50) and alarm(config, below, model)

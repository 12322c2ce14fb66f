"""Batches of every task: pure functions of seed and step, training text only; validation never changes."""

from functools import cache
from itertools import pairwise

import pytest
import torch

from minillm.config.flags import override
from minillm.constants import IGNORE
from minillm.datasets.corpus import corpus_of
from minillm.datasets.split import split
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config

WORDS = ("cat", "dog", "snail", "horse", "bee")
TEXTS = [f"{word} {i} has a {other}." for i in range(12) for word in WORDS for other in WORDS]
TASKS = [
    "gpt-tiny epochs",
    "gpt-tiny random",
    "gpt-tiny documents",
    "lstm-tiny contiguous",
    "encoder-tiny epochs",
    "encoder-tiny random",
    "pairs epochs",
]
TASKS += ["encoder-ending epochs", "encoder-ending random", "translate-tiny epochs", "translate-tiny random"]
each_task = pytest.mark.parametrize("name", TASKS)


@cache
def settings(name: str) -> RunConfig:
    name, order = name.split()
    changes = {
        "task.order": order,
        "train.batch_size": "5",
        "tokenizer.kind": "byte",
        "data.val_fraction": "0.2",
        "data.n_stories": "80",
    }
    changes |= {"data.test_fraction": "0.1", "model.context_length": "128", "data.n_pairs": "300"}
    # contiguous: more rows, or two seeds could give the same batch by chance
    changes |= {"model.context_length": "64"} if order == "contiguous" else {}
    changes |= {"model.next_sentence": "1"} if name == "pairs" else {}
    return override(load_config("encoder-tiny" if name == "pairs" else name), changes)


@cache
def data_of(name: str):
    own = not name.startswith(("encoder-ending", "translate"))
    return wiring.build_data(settings(name), say=lambda line: None, corpus=corpus_of(TEXTS) if own else None)


def seeded(name: str, seed: int) -> RunConfig:
    return override(settings(name), {"train.seed": str(seed)})


def same(a, b) -> bool:
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@each_task
def test_a_batch_depends_on_the_seed_and_on_the_step_and_on_each_for_itself(name):
    def batch(seed: int, step: int):
        return wiring.build_batches(seeded(name, seed), data_of(name))(step)

    places = [(seed, step) for seed in (0, 1) for step in (0, 1)]
    batches = {place: batch(*place) for place in places}
    for i, one in enumerate(places):
        assert same(batches[one], batch(*one))
        for other in places[i + 1 :]:
            assert not same(batches[one], batches[other]), (one, other)


@pytest.mark.parametrize("name", ["encoder-tiny epochs", "encoder-tiny random"])
def test_blanks_of_the_same_rows_differ_from_step_to_step_and_from_seed_to_seed(name, monkeypatch):
    rows = torch.randint(97, 122, (5, 64))
    rows[:, ::4] = 32  # words of three letters
    monkeypatch.setattr("minillm.tasks.blanks.Windows.batch", lambda self, step: type("Rows", (), {"tokens": rows}))
    blanks = {}
    for seed, step in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (1, 1)):
        blanks[seed, step] = wiring.build_batches(seeded(name, seed), data_of(name))(step).targets
    for one in blanks:
        assert all(one == other or not torch.equal(blanks[one], blanks[other]) for other in blanks)
        blank = blanks[one] != IGNORE
        assert torch.equal(blanks[one][blank], rows[blank])


@pytest.mark.parametrize("part", ["val", "test"])
@each_task
def test_validation_is_the_same_for_every_training_seed(name, part):
    one, other = (wiring.build_validation(seeded(name, seed), data_of(name), part).batches for seed in (0, 1))
    assert len(one) == len(other) > 0 and all(map(same, one, other))


@pytest.mark.parametrize("name", TASKS[:5])
def test_training_batches_hold_training_text_alone_and_validation_none_of_it(name):
    config, data, splits = settings(name), data_of(name), split(TEXTS, 0.2, 0.1)

    def whole_documents(batches) -> set[str]:
        found = set()
        for batch in batches:
            tokens = (
                batch.tokens if "encoder" not in name else batch.tokens.where(batch.targets == IGNORE, batch.targets)
            )
            for row in tokens.tolist():
                borders = [i for i, token in enumerate(row) if token == data.tokenizer.end_id]
                found |= {data.tokenizer.decode(row[i:j]) for i, j in pairwise(borders) if j > i + 1}
        return found

    batch = wiring.build_batches(config, data)
    trained = whole_documents(map(batch, range(60)))
    assert trained and trained <= set(splits.train)
    for part in ("val", "test"):
        held_out = whole_documents(wiring.build_validation(config, data, part).batches)
        assert held_out and held_out <= set(getattr(splits, part))


def test_the_first_pass_begins_with_the_shortest_documents_if_asked_for():
    for share in ("0", "0.4"):
        config = override(settings("gpt-tiny documents"), {"task.short_first": share})
        data = data_of("gpt-tiny documents")
        batch, n_steps = wiring.build_batches(config, data), config.task.by_document(config, data).steps_per_epoch
        n_short, longest = round(0.4 * n_steps), [batch(step).tokens.shape[1] for step in range(n_steps)]
        assert min(longest) < max(longest)
        assert (max(longest[:n_short]) <= min(longest[n_short:])) == (share != "0")

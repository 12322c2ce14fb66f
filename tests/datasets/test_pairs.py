"""Pairs as batches: framed by END, each once an epoch, a pure function of the step; and pairs from a file."""

from functools import partial

import numpy as np
import pytest
import torch

from minillm.constants import IGNORE
from minillm.datasets.corpus import DataConfig, load_corpus, load_pairs
from minillm.datasets.pairs import Pair, PairBatches, Pairs, evaluation_pairs, split_pairs
from minillm.datasets.tokens import token_stream
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
END = TOKENIZER.end_id


@pytest.fixture
def pairs(tmp_path):
    """67 pairs of letters: source i is i letters long or so, and its target says which it is."""
    sources = ["abcdefghijk"[: 1 + i % 11] for i in range(67)]
    targets = [f"{i}" * (1 + i % 3) for i in range(67)]
    return Pairs(*(token_stream(side, TOKENIZER, tmp_path) for side in (sources, targets)))


def read(batch) -> list[tuple[str, str]]:
    """The texts of a batch; its framing and its padding are checked."""
    found = []
    for source, tokens, targets in zip(*(part.tolist() for part in batch), strict=True):
        source, n = [i for i in source if i >= 0], sum(i >= 0 for i in tokens)
        assert tokens[0] == END and targets[n - 1] == END and source[-1] == END and source.count(END) == 1
        assert tokens[1:n] == targets[: n - 1] and set(tokens[n:]) <= {-1} and set(targets[n:]) <= {IGNORE}
        found.append((TOKENIZER.decode(source[:-1]), TOKENIZER.decode(tokens[1:n])))
    assert all((part[:, -1] >= 0).any() for part in batch)
    return found


def test_each_row_is_a_source_with_its_end_and_a_target_behind_one(pairs):
    assert read(pairs.batch([5, 0, 12])) == [("abcdef", "555"), ("a", "0"), ("ab", "12")]


@pytest.mark.parametrize("batch_size", [1, 5, 67, 80])
def test_an_epoch_deals_out_every_pair_once_and_the_next_in_another_order(pairs, batch_size):
    batches = PairBatches(pairs, 12, batch_size, seed=3)
    n = batches.steps_per_epoch
    epochs = [[row for step in range(e * n, (e + 1) * n) for row in read(batches.batch(step))] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 67 and epochs[0] != epochs[1]


@pytest.mark.parametrize("order", ["epochs", "random"])
def test_a_batch_is_a_function_of_seed_and_step(pairs, order):
    make = partial(PairBatches, pairs, 12, 5, order=order)
    forward, again = make(seed=3), make(seed=3)
    batches = [forward.batch(step) for step in range(30)]
    for step in reversed(range(30)):
        assert all(torch.equal(a, b) for a, b in zip(again.batch(step), batches[step], strict=True))
    assert any(read(make(seed=4).batch(step)) != read(batches[step]) for step in range(3))


def test_rows_of_about_one_length_are_batched_together(pairs):
    sorted_batches, one = PairBatches(pairs, 12, 5, seed=0), np.random.default_rng(0)
    share = np.mean([float((sorted_batches.batch(step).source >= 0).double().mean()) for step in range(13)])
    mixed = np.mean([float((pairs.batch(one.integers(67, size=5)).source >= 0).double().mean()) for _ in range(13)])
    assert share > 0.8 > mixed


def test_evaluation_reads_every_pair_once(pairs):
    rows = [row for batch in evaluation_pairs(pairs, 12, 7) for row in read(batch)]
    assert len(rows) == len(set(rows)) == 67


def test_a_sentence_longer_than_the_context_is_refused(pairs):
    for make in (lambda: PairBatches(pairs, 11, 5, seed=0), lambda: evaluation_pairs(pairs, 11, 5)):
        with pytest.raises(
            ValueError, match=r"the longest sentence = 12 tokens: expected at most model\.context_length = 11"
        ):
            make()


def test_pairs_are_read_from_a_file_and_split_by_source(tmp_path):
    path = tmp_path / "my.tsv"
    path.write_text("".join(f"un {i}\tone {i}\n\n" for i in range(300)) + "un 5\tanother five\n", encoding="utf-8")
    pairs = load_pairs(DataConfig(corpus=str(path)))
    assert len(pairs) == 301 and pairs[7] == Pair("un 7", "one 7", frozenset(["un 7"]))
    splits = split_pairs(pairs, 0.2, 0.2)
    sides = [{pair.source for pair in part} for part in splits]
    assert all(sides) and not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]


@pytest.mark.parametrize("line", ["no tab", "two\ttabs\there", "\tno source", "no target\t "])
def test_a_line_that_is_no_pair_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "my.tsv"
    path.write_text(f"a\tb\n{line}\n")
    with pytest.raises(ValueError, match=r"my\.tsv, line 2: expected a sentence, a tab and its translation"):
        load_pairs(DataConfig(corpus=str(path)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: load_pairs(DataConfig(corpus="stories")),
            r"data\.corpus = 'stories': expected translation, or a \.tsv file",
        ),
        (
            lambda: load_corpus(DataConfig(corpus="translation")),
            r"data\.corpus = 'translation': expected texts, .*--config translate-tiny",
        ),
        (
            lambda: load_pairs(DataConfig(corpus="nothing.tsv")),
            r"data\.corpus = 'nothing\.tsv': expected .*check the path",
        ),
        (lambda: split_pairs([Pair("a", "b", frozenset("a"))], 0.0, 0.0), r"1 pairs: expected some to validate on"),
        (lambda: split_pairs([], 0.5, 0.6), r"data\.val_fraction \+ data\.test_fraction = 1\.1: expected less than 1"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

"""Labelled texts: labels are exact and do not occur in the text, and batches keep the end of every text."""

import itertools
import string
from collections import Counter

import numpy as np
import pytest
import torch

from minillm.datasets.labels import ENDINGS, SENTENCE_END, LabelledTexts, ending
from minillm.datasets.stories import World
from minillm.datasets.tokens import TokenStream


@pytest.fixture(scope="module")
def world():
    return World()


def test_a_labelled_text_is_what_happened_last_and_its_label_is_the_outcome_it_was_written_with(world):
    verdicts = ("ended well", "ended badly", "turned out fine", "turned out wrong", "All this went")
    labels = Counter()
    for tale in itertools.islice(world.tales(seed=11), 100):
        story = "".join(tale.out)
        text, label = ending(world, story)
        assert ENDINGS[label] == tale.state["outcome"][0] and not any(words in text for words in verdicts)
        rest = story[story.index(text) + len(text) :].lstrip()
        assert rest.startswith(("It ended", "Everything turned out", "All this went"))
        assert 1 <= len(SENTENCE_END.findall(text)) + 1 <= 2 and text[0] in string.ascii_uppercase + '"'
        labels[label] += 1
    assert min(labels.values()) > 30


def test_what_is_no_story_has_no_label(world):
    with pytest.raises(ValueError, match="expected a story of this world"):
        ending(world, "The cat sat on the mat.")


def texts(lengths: list[int], context_length: int) -> tuple[LabelledTexts, list[list[int]]]:
    """Documents of these lengths, numbered tokens, END 0; label i is i."""
    documents, n = [], 1
    for length in lengths:
        documents.append(list(range(n, n + length)))
        n += length
    ids = [0, *(token for document in documents for token in [*document, 0])]
    starts = np.cumsum([0, *(length + 1 for length in lengths)])[:-1]
    return LabelledTexts(
        TokenStream(np.array(ids, np.uint16), starts, 1), list(range(len(lengths))), context_length
    ), documents


def test_each_text_is_a_row_that_begins_with_end_and_keeps_the_last_tokens_of_a_long_one():
    lengths = [3, 0, 9, 6, 7]
    labelled, documents = texts(lengths, 7)
    batches = labelled.every(2)
    assert [len(b.tokens) for b in batches] == [2, 2, 1] and batches[0].tokens.shape[1] == 4
    rows = [row[row >= 0].tolist() for b in batches for row in b.tokens]
    assert rows == [[0, *document[-6:]] for document in documents]
    assert torch.cat([b.labels for b in batches]).tolist() == list(range(5))


def test_an_epoch_deals_out_every_text_once_and_steps_are_functions_of_the_seed():
    labelled, _ = texts([3] * 11, 7)
    deal = labelled.batches(4, seed=5, order="epochs")
    dealt = torch.cat([deal(step).labels for step in range(11)]).tolist()
    for epoch in range(4):
        assert sorted(dealt[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    assert len({tuple(dealt[11 * e : 11 * e + 11]) for e in range(4)}) == 4
    for order in ("epochs", "random"):
        same, other = labelled.batches(4, seed=5, order=order), labelled.batches(4, seed=6, order=order)
        assert all(map(torch.equal, same(7), labelled.batches(4, seed=5, order=order)(7)))
        assert [same(s).labels.tolist() for s in range(3)] != [other(s).labels.tolist() for s in range(3)]

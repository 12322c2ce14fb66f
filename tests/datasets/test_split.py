"""Laws of the split: no leak, and a document's part depends on its content alone."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minillm.datasets.split import Splits, split

many = [f"document {i}" for i in range(4000)]
texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=2, max_size=30)
fractions = st.floats(0.001, 0.49)


def side_of(splits: Splits) -> dict[str, str]:
    return {document: name for name, side in zip(Splits._fields, splits, strict=True) for document in side}


@given(texts, fractions, fractions)
def test_documents_are_dealt_out_completely_in_order_and_copies_stay_together(documents, val, test):
    assume(len(set(documents)) > 1)
    splits = split(documents, val, test)
    assert sorted(documents) == sorted(splits.train + splits.val + splits.test)
    sides = side_of(splits)
    assert splits == tuple([document for document in documents if sides[document] == name] for name in Splits._fields)


@given(texts, fractions, fractions)
def test_two_different_documents_are_enough_to_train_and_to_validate(documents, val, test):
    assume(len(set(documents)) > 1)
    splits = split(documents, val, test)
    assert splits.train and splits.val


@settings(max_examples=20)
@given(st.integers(), st.integers(100, 4000))
def test_a_documents_side_depends_on_neither_order_nor_company(seed, n):
    company = random.Random(seed).sample(many, n)
    whole = side_of(split(many))
    assert side_of(split(company)) == {document: whole[document] for document in company}


def test_the_shares_are_the_ones_that_were_asked_for():
    sizes = [len(side) / len(many) for side in split(many, 0.1, 0.2)]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


def test_a_larger_validation_share_only_adds_documents():
    assert set(split(many, 0.05, 0.1).val) < set(split(many, 0.1, 0.05).val)


@pytest.mark.parametrize("n", [2, 9, 10, 11, 100, 1000, 12345, 1_115_394])
def test_one_long_text_is_cut_at_nine_tenths_of_its_characters(n):
    text = "".join(chr(97 + i % 26) for i in range(n))
    at = int(n * 0.9)
    assert split([text]) == Splits([text[:at]], [text[at:]], [])
    assert split([text], 0.1, 0.0) == split([text])


def test_a_share_of_zero_is_empty_as_asked():
    assert split(many, 0.0, 0.1).val == [] and split(many, 0.1, 0.0).test == []
    assert split(["all of it"], 0.0, 0.0) == Splits(["all of it"], [], [])
    assert split(["same", "same"], 0.0, 0.0) == Splits(["same", "same"], [], [])


@pytest.mark.parametrize(
    ("documents", "val", "test", "sentence"),
    [
        ([], 0.1, 0.1, "no documents"),
        (["x"], 0.1, 0.1, "only document = 1 characters"),
        ([""], 0.1, 0.1, "only document = 0 characters"),
        (["same"] * 5, 0.1, 0.1, "5 times the same document"),
        (many, 0.5, 0.5, r"val_fraction \+ data.test_fraction = 1: expected less than 1"),
    ],
)
def test_what_cannot_be_split_is_refused(documents, val, test, sentence):
    with pytest.raises(ValueError, match=sentence):
        split(documents, val, test)

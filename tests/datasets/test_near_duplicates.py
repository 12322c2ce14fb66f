"""MinHash finds the pairs that a full comparison finds, and computes the same as the lesson."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.near_duplicates import jaccard, near_duplicates, rows_per_band, shingles, signature
from minillm.lessons import cleaning as lesson

words = st.sampled_from(["the", "cat", "dog", "sat", "ran", "on", "mat"])
sentences = st.lists(words, max_size=12).map(" ".join)


@given(sentences, sentences, st.integers(1, 4))
def test_the_jaccard_index_of_hashed_shingles_is_that_of_the_word_n_grams(a, b, n):
    def grams(text: str) -> set:
        found = text.split() or [text]
        return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}

    both, either = grams(a) & grams(b), grams(a) | grams(b)
    assert jaccard(shingles(a, n), shingles(b, n)) == len(both) / len(either)


ALIKE_IN_32_BITS = [("plumless", "buckeroo"), ("gnu", "codding"), ("exhibiters", "schlager")]  # pairs of one CRC-32


@given(st.lists(words, max_size=9), st.lists(words, max_size=9), st.sampled_from(ALIKE_IN_32_BITS), st.integers(1, 6))
def test_texts_that_differ_in_one_word_are_never_the_same(before, after, pair, n):
    one, other = (" ".join([*before, word, *after]) for word in pair)
    assert jaccard(shingles(one, n), shingles(other, n)) < 1
    assert near_duplicates([one, other], 1.0, n, 128) == [False, False]


def test_no_two_of_many_words_are_one_shingle():
    """With 32 bits, five pairs would be expected to share a hash."""
    generator = random.Random(0)
    many = {f"{generator.getrandbits(60):x}" for _ in range(200_000)}
    assert len(shingles(" ".join(many), 1)) == len(many)


def test_two_texts_without_words_resemble_each_other_only_if_they_are_equal():
    assert near_duplicates(["+++", "---", "+++"], 0.8, 5, 128) == [False, False, True]


def test_signatures_agree_as_often_as_their_sets_overlap():
    generator = np.random.default_rng(0)
    multipliers = generator.integers(2**63, size=(4000, 1), dtype=np.uint64) * 2 + 1
    offsets = generator.integers(2**63, size=(4000, 1), dtype=np.uint64)
    vocabulary = [f"word{i}" for i in range(300)]
    for shared in (0, 50, 150, 250, 300):
        a = shingles(" ".join(vocabulary), 1)
        b = shingles(" ".join(vocabulary[300 - shared :] + [f"other{i}" for i in range(300 - shared)]), 1)
        agreement = (signature(a, multipliers, offsets) == signature(b, multipliers, offsets)).mean()
        assert jaccard(a, b) == shared / (600 - shared)
        assert agreement == pytest.approx(jaccard(a, b), abs=0.03)


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_are_the_longest_that_still_find_a_pair_at_the_threshold(similarity):
    rows = rows_per_band(similarity, 128)
    assert (1 - similarity**rows) ** (128 // rows) <= 0.001
    assert rows == 128 or (1 - similarity ** (rows + 1)) ** (128 // (rows + 1)) > 0.001


def compare_all(documents: list[str], similarity: float, n_words: int) -> list[bool]:
    """The slow obvious version: every document against every earlier one that was kept."""
    kept, verdicts = [], []
    for document in documents:
        found = set(shingles(document, n_words).tolist())
        verdicts.append(any(len(found & other) / len(found | other) >= similarity for other in kept))
        if not verdicts[-1]:
            kept.append(found)
    return verdicts


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.7, 0.8, 0.9, 1.0]))
def test_minhash_finds_what_comparing_all_pairs_finds(seed, similarity):
    generator = random.Random(seed)
    documents: list[str] = []
    for _ in range(40):
        fresh = [str(generator.random()) for _ in range(40)]
        made = generator.choice(documents).split() if documents and generator.random() < 0.6 else fresh
        for _ in range(generator.choice([0, 1, 2, 5])):
            made[generator.randrange(len(made))] = str(generator.random())
        documents.append(" ".join(made))
    assert near_duplicates(documents, similarity, 3, 256) == compare_all(documents, similarity, 3)


def test_a_long_document_has_the_signature_of_its_parts_together():
    multipliers, offsets = np.array([[3], [7]], np.uint64), np.array([[5], [11]], np.uint64)
    found = np.unique(np.random.default_rng(0).integers(2**63, size=10_000, dtype=np.uint64))
    naive = [min((int(h) * a + b) % 2**64 >> 32 for h in found) for a, b in ((3, 5), (7, 11))]
    assert signature(found, multipliers, offsets).tolist() == naive


numbers = st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


@given(numbers, st.integers(1, 9), st.integers(0, 2**32))
def test_a_signature_is_that_of_the_lesson(found, k, seed):
    orders = lesson.random_orders(k, seed)
    multipliers, offsets = (np.array(side, np.uint64)[:, None] for side in zip(*orders, strict=True))
    array = np.array(sorted(found), np.uint64)
    assert signature(array, multipliers, offsets).tolist() == lesson.signature(found, orders)


@given(sentences.filter(lambda text: text.count(" ") > 2), sentences.filter(lambda text: text.count(" ") > 2))
def test_the_jaccard_index_is_that_of_the_lesson(a, b):
    assert jaccard(shingles(a, 3), shingles(b, 3)) == lesson.jaccard(lesson.shingles(a, 3), lesson.shingles(b, 3))


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.8, 0.95])
def test_bands_miss_by_the_chance_of_the_lesson(similarity):
    rows = rows_per_band(similarity, 128)
    assert 1 - lesson.chance(similarity, 128, rows) <= 0.001 < 1 - lesson.chance(similarity, 128, rows + 1)


def test_near_duplicates_are_those_of_the_lesson():
    generator = random.Random(1)
    documents = [" ".join(generator.choices("abcdefghij", k=30)) for _ in range(20)]
    for _ in range(20):
        changed = generator.choice(documents).split()
        changed[generator.randrange(30)] = "z"
        documents.insert(generator.randrange(len(documents) + 1), " ".join(changed))
    sets = [lesson.shingles(text, 2) for text in documents]
    orders = lesson.random_orders(128)
    signatures = [lesson.signature(set(map(lesson.number, found)), orders) for found in sets]
    verdicts = lesson.near_duplicates(sets, signatures, 0.7, rows_per_band(0.7, 128))
    assert near_duplicates(documents, 0.7, 2, 128) == verdicts and sum(verdicts) > 10

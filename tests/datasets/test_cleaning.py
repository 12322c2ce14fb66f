"""Laws of cleaning: its report adds up, it is idempotent, and MinHash finds the pairs that a full comparison finds."""

import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.config.loading import keys
from minillm.datasets.cleaning import (
    CleaningConfig,
    clean,
    jaccard,
    near_duplicates,
    normalize,
    rows_per_band,
    shingles,
    signature,
    symbol_share,
)

characters = st.characters(codec="utf-8") | st.sampled_from(
    "ab \t\n\r\v\x0c\x00\x1f\x7f\x85\u00a0\u0301\u2028\u3000\ufeff.!e"
)
texts = st.text(characters, max_size=30)
words = st.sampled_from(["the", "cat", "dog", "sat", "ran", "on", "mat"])
sentences = st.lists(words, max_size=12).map(" ".join)
configs = st.builds(
    CleaningConfig,
    min_chars=st.integers(0, 20),
    max_chars=st.integers(10, 60),
    max_symbols=st.floats(0, 1),
    duplicates=st.booleans(),
    near_duplicates=st.floats(0, 1),
    n_words=st.integers(1, 4),
    n_hashes=st.sampled_from([1, 7, 32]),
)


@given(texts)
def test_a_normalized_text_is_in_normal_form(text):
    done = normalize(text)
    assert normalize(done) == done
    assert unicodedata.is_normalized("NFC", done)
    assert not [char for char in done if unicodedata.category(char) in ("Cc", "Zl", "Zp") and char not in "\n\t"]
    assert not [char for char in done if char.isspace() and char not in " \n\t"]
    assert not re.search(r"\n{3}|\A\n|\n\Z", done)
    assert all(line == line.rstrip(" \t") for line in done.split("\n"))


@given(texts)
def test_normalizing_touches_nothing_that_can_be_seen(text):
    def visible(text: str) -> str:
        return "".join(
            char
            for char in unicodedata.normalize("NFC", text)
            if not char.isspace() and unicodedata.category(char) != "Cc"
        )

    bare = "".join(char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    assert visible(normalize(text)) == visible(bare)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf" + "e\u0301", "caf\u00e9"),
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("e\x00\u0301", "\u00e9"),
        ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
        ("a\u00a0b\u3000c", "a b c"),
        ("def f():\n    return 1   \n\t\n\n\n\nx  y\n\n", "def f():\n    return 1\n\nx  y"),
        ("  indented", "  indented"),
        (" \n ", ""),
    ],
)
def test_normalizing_by_example(text, expected):
    assert normalize(text) == expected


@given(st.lists(texts | sentences, max_size=12), configs)
def test_the_account_adds_up_and_what_is_kept_keeps_its_order(documents, config):
    before = list(documents)
    kept, report = clean(documents, config)
    assert documents == before
    normalized = iter([normalize(document) for document in documents])
    assert all(document in normalized for document in kept)  # a subsequence
    assert report.n_documents_before == len(documents) and report.n_documents_after == len(kept)
    assert report.n_bytes_before == len("".join(documents).encode()) and report.n_bytes_after == len(
        "".join(kept).encode()
    )
    assert report.n_documents_before - sum(r.n_documents for r in report.removals) == report.n_documents_after
    assert report.n_bytes_before - sum(r.n_bytes for r in report.removals) == report.n_bytes_after
    assert all(config.min_chars <= len(document) <= config.max_chars for document in kept)
    assert all(symbol_share(document) <= config.max_symbols for document in kept)
    assert not config.duplicates or len(set(kept)) == len(kept)


@given(st.lists(texts | sentences, max_size=12), configs)
def test_cleaning_what_is_clean_changes_nothing(documents, config):
    kept, _ = clean(documents, config)
    again, report = clean(kept, config)
    assert again == kept
    assert not any(r.n_documents or r.n_bytes or r.example for r in report.removals)


def test_each_rule_reports_what_it_removed_with_an_example_and_the_first_copy_stays():
    story = "once upon a time a small dog found a red ball under the old tree"
    documents = [
        story,
        "short",
        "long " * 30,
        "?!" * 30 + "symbols",
        f"{story}\r\n",
        "?" * 101,
        f"{story} again",
        "b" * 25,
        story,
    ]
    kept, report = clean(documents, CleaningConfig(min_chars=10, max_chars=100, max_symbols=0.3))
    assert kept == [story, "b" * 25]
    assert [tuple(removal) for removal in report.removals] == [
        ("normalized", 0, 3, repr(("long " * 30)[:48])),
        ("shorter than 10", 1, 5, "'short'"),
        ("longer than 100", 2, 149 + 101, repr(("long " * 30)[:48])),
        ("symbols > 0.3", 1, 67, repr(("?!" * 30)[:48])),
        ("duplicates", 2, 2 * len(story), repr(story[:48])),
        ("near-duplicates 0.8", 1, len(story) + 6, repr(story[:48])),
    ]


def test_a_document_exactly_at_a_limit_stays():
    config = CleaningConfig(min_chars=8, max_chars=8, max_symbols=0.25)
    assert clean(["abcdef??", "abcde??", "abcdefg??", "abcde???"], config)[0] == ["abcdef??"]


def test_the_report_is_a_table():
    _, report = clean(["a good document, long enough", "bad", "a good document, long enough"], CleaningConfig())
    assert str(report).split("\n") == [
        "                        documents  bytes  for example",
        "before                          3     59",
        "normalized                      0      0",
        "shorter than 20                -1     -3  'bad'",
        "longer than 10,000,000          0      0",
        "symbols > 0.3                   0      0",
        "duplicates                     -1    -28  'a good document, long enough'",
        "near-duplicates 0.8             0      0",
        "after                           1     28",
    ]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        (" \n", 0),
        ("abc", 0),
        ("a+b.", 0.5),
        ("+ a \n", 0.5),
        ("...", 1),
        ("\u0928\u093f\u092e", 0),
        ("\u4e2d\u3002", 0.5),
    ],
)
def test_symbols_are_counted_among_what_is_not_white_space_in_every_script(text, share):
    assert symbol_share(text) == share


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
    assert near_duplicates([one, other], CleaningConfig(near_duplicates=1.0, n_words=n)) == [False, False]


def test_no_two_of_many_words_are_one_shingle():
    """With 32 bits, five pairs would be expected to share a hash."""
    generator = random.Random(0)
    many = {f"{generator.getrandbits(60):x}" for _ in range(200_000)}
    assert len(shingles(" ".join(many), 1)) == len(many)


def test_two_texts_without_words_resemble_each_other_only_if_they_are_equal():
    assert near_duplicates(["+++", "---", "+++"], CleaningConfig()) == [False, False, True]


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


def compare_all(documents: list[str], config: CleaningConfig) -> list[bool]:
    """The slow obvious version: every document against every earlier one that was kept."""
    kept, verdicts = [], []
    for document in documents:
        found = set(shingles(document, config.n_words).tolist())
        verdicts.append(any(len(found & other) / len(found | other) >= config.near_duplicates for other in kept))
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
    config = CleaningConfig(near_duplicates=similarity, n_words=3, n_hashes=256)
    assert near_duplicates(documents, config) == compare_all(documents, config)


def test_a_long_document_has_the_signature_of_its_parts_together():
    multipliers, offsets = np.array([[3], [7]], np.uint64), np.array([[5], [11]], np.uint64)
    found = np.unique(np.random.default_rng(0).integers(2**63, size=10_000, dtype=np.uint64))
    naive = [min((int(h) * a + b) % 2**64 >> 32 for h in found) for a, b in ((3, 5), (7, 11))]
    assert signature(found, multipliers, offsets).tolist() == naive


def test_every_field_of_the_section_explains_itself_and_knows_its_range():
    assert all(key.comment for key in keys(CleaningConfig))
    with pytest.raises(ValueError, match=r"near_duplicates = 1\.5: expected"):
        CleaningConfig(near_duplicates=1.5)

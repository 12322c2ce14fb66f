"""Laws of cleaning: its report adds up, it is idempotent, and documents keep their order."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.config.loading import keys
from minillm.datasets.cleaning import CleaningConfig, clean
from minillm.datasets.plain_text import normalize
from minillm.datasets.private_data import KINDS
from minillm.datasets.quality_rules import GOPHER, RULES, breaks, symbol_share
from tests.datasets.test_private_data import private
from tests.datasets.test_repeated_lines import paragraphs

characters = st.characters(codec="utf-8") | st.sampled_from(
    "ab \t\n\r\v\x0c\x00\x1f\x7f\x85\u00a0\u0301\u2028\u3000\ufeff.!e"
)
texts = st.text(characters, max_size=30)
words = st.sampled_from(["the", "cat", "dog", "sat", "ran", "on", "mat"])
sentences = st.lists(words, max_size=12).map(" ".join)
corpora = st.lists(texts | sentences | private | paragraphs, max_size=12)
limits = {
    "min_words": st.integers(0, 5),
    "max_words": st.integers(3, 20),
    "min_word_length": st.floats(0, 5),
    "max_word_length": st.floats(2, 10),
    "min_stop_words": st.integers(0, 2),
    "max_marks": st.floats(0, 1),
}
rules = st.fixed_dictionaries({}, optional={key: limits.get(key, st.floats(0, 1)) for key in RULES})
configs = st.builds(
    lambda one, other: CleaningConfig(**one, **other),
    rules,
    st.fixed_dictionaries(
        {
            "min_chars": st.integers(0, 20),
            "max_chars": st.integers(10, 60),
            "max_symbols": st.floats(0, 1),
            "duplicates": st.booleans(),
            "near_duplicates": st.floats(0, 1),
            "n_words": st.integers(1, 4),
            "n_hashes": st.sampled_from([1, 7, 32]),
            "line_copies": st.integers(0, 2),
            "line_words": st.integers(1, 3),
            **dict.fromkeys(KINDS, st.booleans()),
        }
    ),
)


def rewrite(documents: list[str], config: CleaningConfig) -> list[str]:
    """The documents rewritten, by the rules one after the other; the obvious way."""
    now = [normalize(document) for document in documents]
    for key, kind in KINDS.items():
        if getattr(config, key):
            now = [kind.pattern.sub(kind.mask, document) for document in now]
    seen = []
    for i, document in enumerate(now):
        lines = []
        for line in document.split("\n"):
            counts = config.line_copies and len(line.split()) >= config.line_words
            if not counts or seen.count(line.strip()) < config.line_copies:
                lines.append(line)
            seen += [line.strip()] if counts else []
        now[i] = normalize("\n".join(lines))
    return now


@given(corpora, configs)
def test_the_account_adds_up_and_what_is_kept_keeps_its_order(documents, config):
    before = list(documents)
    kept, report = clean(documents, config)
    assert documents == before
    rewritten = iter(rewrite(documents, config))
    assert all(document in rewritten for document in kept)  # a subsequence
    assert report.n_documents_before == len(documents) and report.n_documents_after == len(kept)
    assert report.n_bytes_before == len("".join(documents).encode()) and report.n_bytes_after == len(
        "".join(kept).encode()
    )
    assert report.n_documents_before - sum(r.n_documents for r in report.removals) == report.n_documents_after
    assert report.n_bytes_before - sum(r.n_bytes for r in report.removals) == report.n_bytes_after
    assert all(config.min_chars <= len(document) <= config.max_chars for document in kept)
    assert all(symbol_share(document) <= config.max_symbols for document in kept)
    assert not any(breaks(key, getattr(config, key), document) for key in RULES for document in kept)
    assert not config.duplicates or len(set(kept)) == len(kept)
    assert not any(kind.pattern.search(text) for key, kind in KINDS.items() if getattr(config, key) for text in kept)


@given(corpora, configs)
def test_cleaning_what_is_clean_changes_nothing(documents, config):
    kept, _ = clean(documents, config)
    again, report = clean(kept, config)
    assert again == kept
    assert not any(r.n_documents or r.n_changes or r.n_bytes or r.example for r in report.removals)


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
        ("normalized", 0, 2, 3, repr(("long " * 30)[:48])),
        ("shorter than 10", 1, 0, 5, "'short'"),
        ("longer than 100", 2, 0, 149 + 101, repr(("long " * 30)[:48])),
        ("symbols > 0.3", 1, 0, 67, repr(("?!" * 30)[:48])),
        ("duplicates", 2, 0, 2 * len(story), repr(story[:48])),
        ("near-duplicates 0.8", 1, 0, len(story) + 6, repr(story[:48])),
    ]


def test_rewriting_is_reported_without_showing_what_was_masked():
    footer = "write to the authors of this page"
    documents = [
        f"ann@example.com likes\ttea  \n{footer}",
        f"call 555-123-4567 or bob@example.com\n\n{footer}",
        "a visit of 10.0.0.1 in 2024",
    ]
    config = CleaningConfig(mask_emails=True, mask_ips=True, mask_phones=True, line_copies=1, max_symbols=1.0)
    kept, report = clean(documents, config)
    assert kept == [f"[email] likes\ttea\n{footer}", "call [phone] or [email]", "a visit of [IP] in 2024"]
    assert [tuple(removal) for removal in report.removals[:5]] == [
        ("normalized", 0, 1, 2, repr(kept[0][:48])),
        ("e-mail addresses", 0, 2, 2 * len("ann@example.com") - 2 * len("[email]"), repr(kept[0][:48])),
        ("IP addresses", 0, 1, len("10.0.0.1") - len("[IP]"), repr(kept[2])),
        ("phone numbers", 0, 1, len("555-123-4567") - len("[phone]"), repr(kept[1])),
        ("copies of a line > 1", 0, 1, len(footer) + 2, repr(kept[1])),
    ]
    assert report.n_changes == 6 and not {"ann@", "bob@", "555", "10.0"} & set(str(report).split())
    assert "555" not in str(report) and "@" not in str(report)


def test_a_mask_that_is_longer_than_the_address_adds_bytes():
    _, report = clean(["a@b.co"], CleaningConfig(mask_emails=True, min_chars=0))
    assert report.removals[1].n_bytes == -1 and report.n_bytes_after == 7
    assert "e-mail addresses                0        1      1  '[email]'" in str(report)


def test_a_rule_is_off_by_default_and_reported_where_it_is_on():
    names = [removal.rule for removal in clean([], CleaningConfig())[1].removals]
    assert names == [
        "normalized",
        "shorter than 20",
        "longer than 10,000,000",
        "symbols > 0.3",
        "duplicates",
        "near-duplicates 0.8",
    ]
    more = [removal.rule for removal in clean([], CleaningConfig(**GOPHER))[1].removals if removal.rule not in names]
    assert more == [
        "words < 50",
        "words > 100,000",
        "word length < 3",
        "word length > 10",
        "alphabetic words < 0.8",
        "stop words < 2",
        "# or ... per word > 0.1",
        "bullet lines > 0.9",
        "lines ending in ... > 0.3",
        "repeated lines > 0.3",
        "top n-gram > 0.2",
        "repeated n-grams > 0.15",
    ]


@pytest.mark.parametrize("char", "1@. +-0:#")
def test_a_long_line_of_one_character_is_cleaned_in_linear_time(char):
    config = CleaningConfig(**GOPHER, **dict.fromkeys(KINDS, True), line_copies=1)
    began = time.process_time()
    clean([f"a{char * 1_000_000}a"], config)
    assert time.process_time() - began < 1


def test_a_document_exactly_at_a_limit_stays():
    config = CleaningConfig(min_chars=8, max_chars=8, max_symbols=0.25)
    assert clean(["abcdef??", "abcde??", "abcdefg??", "abcde???"], config)[0] == ["abcdef??"]


def test_the_report_is_a_table():
    _, report = clean(["a good document, long enough", "bad", "a good document, long enough"], CleaningConfig())
    assert str(report).split("\n") == [
        "                        documents  changes  bytes  for example",
        "before                          3              59",
        "normalized                      0        0      0",
        "shorter than 20                -1        0     -3  'bad'",
        "longer than 10,000,000          0        0      0",
        "symbols > 0.3                   0        0      0",
        "duplicates                     -1        0    -28  'a good document, long enough'",
        "near-duplicates 0.8             0        0      0",
        "after                           1              28",
    ]


def test_every_field_of_the_section_explains_itself_and_knows_its_range():
    assert all(key.comment for key in keys(CleaningConfig))
    with pytest.raises(ValueError, match=r"near_duplicates = 1\.5: expected"):
        CleaningConfig(near_duplicates=1.5)

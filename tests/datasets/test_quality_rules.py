"""The quality rules equal plain versions of their definitions, and the limits of Gopher tell text from other pages."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.cleaning import CleaningConfig
from minillm.datasets.quality_rules import GOPHER, RULES, breaks, symbol_share, top_ngram_share
from minillm.datasets.stories import World

TEXT = (
    "The house stands at the end of a long road that few people have seen. In the morning the sun comes over the hill "
    "and lights its windows one by one, until all of them shine like water. An old woman lives there with her two "
    "dogs; she reads, walks to the river, and is never bored."
)
BREAKING = {
    "min_words": "To have been with the king and that queen.",
    "max_words": "the house and a road " * 20_001,
    "min_word_length": "a b c to of and " * 20,
    "max_word_length": "the constitutionalization of internationalizations and counterrevolutionaries " * 10,
    "min_alphabetic": "the 1 2 3 and 4 " * 20,
    "min_stop_words": "la maison est au bout du chemin " * 10,
    "max_marks": f"{TEXT} # # # # # # # # # # # # # # # #",
    "max_bullets": "\n".join(f"- {line}" for line in TEXT.split(",")),
    "max_ellipses": "\n".join(f"{line}..." for line in TEXT.split(",")),
    "max_repeated_lines": "\n".join([*TEXT.split(","), *TEXT.split(",")]),
    "max_top_ngram": f"{TEXT} {'click here ' * 8}",
    "max_repeated_ngrams": f"{TEXT} {TEXT}",
}


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


@pytest.mark.parametrize("text", [TEXT, *World().generate(20, seed=0)], ids=lambda text: text[:20])
def test_running_text_breaks_no_rule_of_gopher_but_that_of_stop_words(text):
    assert not [key for key, limit in GOPHER.items() if breaks(key, limit, text) and key != "min_stop_words"]
    assert not breaks("min_stop_words", 1, text)


@pytest.mark.parametrize("key", RULES)
def test_a_text_made_for_it_breaks_each_rule(key):
    assert breaks(key, GOPHER[key], BREAKING[key])
    assert not breaks(key, getattr(CleaningConfig(), key), BREAKING[key]), "by default the rule is off"


def test_gopher_has_a_limit_for_each_rule_in_its_range():
    assert list(GOPHER) == list(RULES) == list(BREAKING)
    CleaningConfig(**GOPHER)


@pytest.mark.parametrize(
    ("key", "text", "measured"),
    [
        ("min_words", "one  two\n\nthree", 3),
        ("min_words", "", 0),
        ("min_word_length", "a bb ccc", 2),
        ("min_word_length", "", 0),
        ("min_alphabetic", "R2 D2 42 -- \u00e9t\u00e9", 3 / 5),
        ("min_alphabetic", "", 0),
        ("min_stop_words", "THE end, of the (and) other", 3),
        ("max_marks", "#a #b c ... \u2026 \u2026", 3 / 6),
        ("max_marks", "## a", 1),
        ("max_bullets", "- a\n\n  \u2022 b\n-c\nd - e", 2 / 4),
        ("max_bullets", "", 0),
        ("max_ellipses", "a...\nb \u2026\n...c\n", 2 / 3),
        ("max_ellipses", "", 0),
        ("max_repeated_lines", "a\n  a\nb\n\n\na", 2 / 4),
        ("max_repeated_lines", "", 0),
        ("max_top_ngram", "aa b c aa b ddd", 6 / 10),
        ("max_top_ngram", "a b c d", 0),
        ("max_top_ngram", "a", 0),
        ("max_repeated_ngrams", "a b c d e f a b c d e ggggggggg", 10 / 20),
        ("max_repeated_ngrams", "a b c d e f", 0),
        ("max_repeated_ngrams", "", 0),
    ],
)
def test_measures_by_example(key, text, measured):
    assert RULES[key].measure(text) == pytest.approx(measured)


@pytest.mark.parametrize("key", RULES)
def test_a_document_exactly_at_a_limit_stays(key):
    measured = RULES[key].measure(BREAKING[key])
    assert not breaks(key, measured, BREAKING[key])
    assert breaks(key, measured + (0.01 if key.startswith("min_") else -0.01), BREAKING[key])


def share(words: list[str], n: int, grams: set[tuple]) -> float:
    """The share of characters in some n-grams, word by word."""
    inside = {i + k for i in range(len(words) - n + 1) if tuple(words[i : i + n]) in grams for k in range(n)}
    return sum(len(words[i]) for i in inside) / sum(map(len, words))


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "a1"]), min_size=1, max_size=30))
def test_shares_of_n_grams_equal_those_counted_word_by_word(words):
    top, repeated = [], []
    for n in range(2, 11):
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        most = max(counts.values(), default=0)
        longest = max((len("".join(gram)) for gram, count in counts.items() if count == most), default=0)
        ties = [gram for gram, count in counts.items() if count == most > 1 and len("".join(gram)) == longest]
        top.append([share(words, n, {gram}) for gram in ties] or [0.0])
        repeated.append(share(words, n, {gram for gram, count in counts.items() if count > 1}))
    paper = {2: 0.20, 3: 0.18, 4: 0.16, 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    measured = top_ngram_share(" ".join(words))
    low = max(min(top[n - 2]) * 0.20 / paper[n] for n in (2, 3, 4))
    high = max(max(top[n - 2]) * 0.20 / paper[n] for n in (2, 3, 4))
    assert min(1, low) - 1e-9 <= measured <= min(1, high) + 1e-9
    expected = max(repeated[n - 2] * 0.15 / paper[n] for n in range(5, 11))
    assert RULES["max_repeated_ngrams"].measure(" ".join(words)) == pytest.approx(min(1, expected))

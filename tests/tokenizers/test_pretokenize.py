"""Pre-tokenization equals Unicode's own categories and the `tokenizers` package."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from minillm.tokenizers.pretokenize import WordCache, split_words

PACKAGE = ByteLevel(add_prefix_space=False)


def cut_by_the_package(text: str) -> list[str]:
    return [text[begin:end] for _, (begin, end) in PACKAGE.pre_tokenize_str(text)]


def test_an_english_sentence():
    assert split_words("Don't we'll  have 3½ dogs?\n") == [
        "Don",
        "'t",
        " we",
        "'ll",
        " ",
        " have",
        " 3½",
        " dogs",
        "?",
        "\n",
    ]


words = st.sampled_from(["they", "I", "we", "Don", "x1", "é", "", "3"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(words, st.sampled_from(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'D", "'x"])), max_size=5)
)
def test_english_endings_are_words_of_their_own(parts):
    text = " ".join(word + ending for word, ending in parts)
    assert split_words(text) == cut_by_the_package(text)
    for word, ending in parts:
        if ending[1:] in ("s", "t", "re", "ve", "m", "ll", "d"):
            assert split_words(word + ending)[-1] == ending


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"])
        | st.sampled_from(" \n\t'_½²٣\x1c\x85\xa0\u3000aé漢")
    )
)
def test_words_are_those_of_the_package_and_joined_are_the_text(text):
    assert split_words(text) == cut_by_the_package(text)
    assert "".join(split_words(text)) == text


def test_every_character_that_python_knows_is_of_its_unicode_category():
    """Each letter, number or other character forms one word with "a", "1" or ","; a space is a word on its own."""
    spaces = set("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | set(map(chr, range(0x2000, 0x200B)))
    groups: dict[str, list[str]] = {"a": [], "1": [], ",": [], " ": []}
    for char in map(chr, range(0x110000)):
        category = unicodedata.category(char)
        if category not in ("Cs", "Cn", "Co"):
            groups[" " if char in spaces else {"L": "a", "N": "1"}.get(category[0], ",")].append(char)
    for first, characters in groups.items():
        text = first + "".join(characters)
        assert split_words(text) == [text]
    for first in "a1,":
        for second in "a1, ":
            for char in groups[second][:: 1 + len(groups[second]) // 500]:
                assert len(split_words(first + char)) == 1 + (first != second), (first, char)


def test_the_cache_forgets_when_it_is_full_and_never_keeps_enormous_words():
    asked = []
    cache = WordCache(lambda word: asked.append(word) or [len(word)])
    cache.SIZE = 2
    assert cache.encode("a a a b") == [1, 2, 2, 2] and asked == ["a", " a", " b"]
    assert len(cache) <= 2
    long = "x" * (WordCache.LONGEST + 1)
    assert cache.encode(long) == [len(long)] and long not in cache

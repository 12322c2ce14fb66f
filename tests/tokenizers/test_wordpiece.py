"""WordPiece equals the lesson and the `tokenizers` package; BERT's words are the package's for every old character."""

import sys
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from minillm.lessons import wordpiece as lesson
from minillm.tokenizers import bert_words
from minillm.tokenizers.wordpiece import UNKNOWN, WordPieceTokenizer, learn_pieces

laws = settings(max_examples=100, deadline=None)
words = st.text("abc", min_size=1, max_size=9) | st.sampled_from(["aaaa", "abab", "ababa", "a"])
TEXTS = ["The hedgehog's 37 apples, and 73 pears!", "Hedgehogs gather apples; others bother hedgehogs."] * 3


@laws
@given(words=st.lists(words, min_size=1, max_size=11), n=st.integers(0, 13))
def test_training_is_the_lessons_training(words, n):
    merges, _ = lesson.train(words, len(words) * 13)
    expected = list(dict.fromkeys(lesson.join(*pair) for pair in merges))
    assert learn_pieces(Counter(words), n) == expected[:n]


@laws
@given(words=st.lists(words, min_size=1, max_size=7), text=st.text("abcd", max_size=13))
def test_encoding_is_the_lessons_and_the_packages(words, text):
    tokenizer = WordPieceTokenizer.train([" ".join(words)], 37)
    pieces = [tokenizer.texts[token] for token in tokenizer.encode(text)]
    assert pieces == (lesson.encode(text, tokenizer.token_of) if text else [])
    package = models.WordPiece({piece: i for i, piece in enumerate(tokenizer.texts)}, unk_token=UNKNOWN)
    assert pieces == [token.value for token in package.tokenize(text)]


def test_words_longer_than_a_hundred_characters_are_unknown():
    tokenizer = WordPieceTokenizer.train(["aaa aab"], 30)
    assert tokenizer.unknown not in tokenizer.encode("a" * 100)
    assert tokenizer.encode("b " + "a" * 101) == [*tokenizer.encode("b"), tokenizer.unknown]


def test_a_pair_that_is_always_together_is_merged_before_a_frequent_one():
    counts = Counter({"queen": 3, "eel": 9, "eke": 9})
    assert learn_pieces(counts, 1) == ["qu"] and counts["eel"] > counts["queen"]


def test_half_of_the_vocabulary_at_most_is_characters_and_words_with_rarer_ones_are_unknown():
    tokenizer = WordPieceTokenizer.train(["ab " * 50 + " ".join(map(chr, range(0x4E00, 0x4F00)))], 42)
    assert tokenizer.vocab_size <= 42
    assert tokenizer.encode("ab \u4e77") == [*tokenizer.encode("ab"), tokenizer.unknown]
    with pytest.raises(ValueError, match="vocab_size = 3: expected at least 4"):
        WordPieceTokenizer.train(TEXTS, 3)


def test_text_that_names_the_unknown_token_is_not_it():
    tokenizer = WordPieceTokenizer.train([*TEXTS, "[unk] [unk]"], 200)
    assert tokenizer.unknown not in tokenizer.encode("[UNK]")
    assert tokenizer.decode([tokenizer.unknown]) == " [UNK]" and UNKNOWN not in tokenizer.special_tokens


SEPARATOR = "\u2044"  # no step changes it
CODES = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
CODES.remove(ord(SEPARATOR))
CODES = [code for code in CODES if code < 0x3100 or code % 11 == 0]  # all that are not ideographs or the like


def normalized(text: str, *flags: bool | None) -> tuple[str, str]:
    names = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    return bert_words.normalize(text, *flags), BertNormalizer(**dict(zip(names, flags, strict=True))).normalize_str(
        text
    )


def test_every_character_is_treated_as_by_the_package_but_some_hundred_younger_than_its_tables():
    young: dict[str, list[int]] = {"uncased": [], "cased": [], "words": []}
    for begin in range(0, len(CODES), 500):
        codes = CODES[begin : begin + 500]
        for name, flags in (("uncased", (True, True, None, True)), ("cased", (True, False, None, False))):
            whole = "".join(f"a{chr(code)}B{SEPARATOR}" for code in codes)
            ours, theirs = (each.split(SEPARATOR)[:-1] for each in normalized(whole, *flags))
            young[name] += [code for code, a, b in zip(codes, ours, theirs, strict=True) if a != b]
        cut = BertPreTokenizer().pre_tokenize_str(f" {SEPARATOR} ".join(f"a{chr(code)}b" for code in codes))
        runs = " ".join(word for word, _ in cut).split(f" {SEPARATOR} ")
        ours = [" ".join(bert_words.split_words(f"a{chr(code)}b")) for code in codes]
        young["words"] += [code for code, a, b in zip(codes, ours, runs, strict=True) if a != b]
    for name, most in (("uncased", 200), ("cased", 10), ("words", 60)):
        assert 0 < len(young[name]) <= most and min(young[name]) > 0x600, name


@laws
@given(text=st.text(st.sampled_from("aéÀßΣİ\u0301漢,.#\t\n \u3000\x00\ufffd\xad1½'")))
def test_a_text_of_all_kinds_of_characters_is_normalized_and_cut_as_by_the_package(text):
    for flags in ((True, True, None, True), (False, True, False, True), (True, False, True, False)):
        ours, theirs = normalized(text, *flags)
        assert ours == theirs
    assert bert_words.split_words(text) == [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]

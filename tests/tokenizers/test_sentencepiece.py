"""The sentencepiece package must not change a text, and results must not depend on its defaults."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers.sentencepiece import CHUNK, FIXED, SPACE, SentencePieceTokenizer, sample_chunks
from minillm.tokenizers.tokenizer import END

TEXTS = [
    "The hedgehog of the orchard counted 1234 apples.\n\nIt counted them again: 1234.\n",
    "def count(self):\n    if self.apples:\n        return self.apples\n",
] * 5
ALGORITHMS = pytest.mark.parametrize("algorithm", ["bpe", "unigram"])


def pieces_of(tokenizer: SentencePieceTokenizer, text: str) -> list[bytes]:
    return [tokenizer.pieces[token] for token in tokenizer.encode(text)]


@pytest.fixture(scope="module")
def bpe() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(TEXTS, 400)


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.text() | st.sampled_from([" ", "  ", "\n", "    ", "apples", "The ", " <0x41>", "<unk>", END]), max_size=9
    )
)
def test_word_by_word_is_what_the_package_gives_for_the_whole(bpe, parts):
    text = "".join(parts).replace(SPACE, "")
    assert bpe.encode(text) == bpe.processor.encode(text)


@ALGORITHMS
def test_the_escape_character_is_not_a_space(algorithm):
    tokenizer = SentencePieceTokenizer.train([*TEXTS, f"a{SPACE}q{SPACE}{SPACE}z" * 50], 400, algorithm)
    assert not {b" q", b" z", b" za"} & set(tokenizer.pieces)
    assert pieces_of(tokenizer, SPACE) == [b"\xe2", b"\x96", b"\x81"]
    assert tokenizer.decode(tokenizer.encode(f"a{SPACE}b c")) == f"a{SPACE}b c"


@ALGORITHMS
def test_training_is_silent_and_so_are_its_errors(algorithm, capfd):
    SentencePieceTokenizer.train(TEXTS, 300, algorithm)
    with pytest.raises(ValueError):
        SentencePieceTokenizer.train([], 300, algorithm)
    assert capfd.readouterr() == ("", "")


@ALGORITHMS
def test_a_newline_at_the_end_of_each_text_is_learned(algorithm):
    tokenizer = SentencePieceTokenizer.train(["one apple\n", "two apples\n"] * 20, 300, algorithm)
    assert b"\n" in tokenizer.pieces[FIXED:]


@ALGORITHMS
def test_digits_stand_alone(algorithm):
    tokenizer = SentencePieceTokenizer.train(TEXTS, 400, algorithm)
    assert pieces_of(tokenizer, "1234") == [b"1", b"2", b"3", b"4"]


@ALGORITHMS
def test_no_piece_begins_one_word_and_ends_in_another(algorithm):
    for piece in SentencePieceTokenizer.train(TEXTS, 400, algorithm).pieces:
        assert b" " not in piece.lstrip(b" ")


@ALGORITHMS
def test_a_small_text_gives_a_smaller_vocabulary_than_asked_for(algorithm):
    tokenizer = SentencePieceTokenizer.train(["abc abc"], 8000, algorithm)
    assert FIXED < tokenizer.vocab_size < 300
    assert tokenizer.processor.vocab_size() == tokenizer.vocab_size == len(tokenizer.pieces)


@ALGORITHMS
def test_rare_characters_of_a_large_alphabet_are_left_to_their_bytes(algorithm):
    common, rare = "ab", "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    tokenizer = SentencePieceTokenizer.train([(common + " ") * 50 + rare], 300, algorithm)
    assert tokenizer.vocab_size <= 300 and b"a" in tokenizer.pieces[FIXED:]
    assert tokenizer.decode(tokenizer.encode(rare)) == rare


def test_text_in_the_corpus_that_looks_like_the_packages_own_pieces_is_text():
    tokenizer = SentencePieceTokenizer.train(["<unk> <0x41> <s> <|end|> pears\n"] * 50, 400)
    assert b"unk" in tokenizer.pieces
    for text in ("<unk>", "<0x41>", END, "<s>"):
        assert tokenizer.end_id not in tokenizer.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text


def test_the_sample_is_all_of_a_small_text():
    texts = ["a" * 5, "", "z" * (2 * CHUNK + 1)]
    assert sample_chunks(texts, 2 * CHUNK + 6) == ["a" * 5, "z" * CHUNK, "z" * CHUNK, "z"]


def test_the_sample_of_a_large_text_has_its_size_and_comes_from_everywhere():
    texts = [char * CHUNK for char in "st" * 60] + ["u" * CHUNK * 40]
    sample = sample_chunks(iter(texts), 41 * CHUNK)
    assert sum(map(len, sample)) == 41 * CHUNK and sample == sample_chunks(texts, 41 * CHUNK)
    assert min("".join(sample).count(char) for char in "stu") > 5 * CHUNK


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match="algorithm = 'word': expected"):
        SentencePieceTokenizer.train(TEXTS, 300, "word")

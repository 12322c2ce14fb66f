"""Our tokenizers, written as tokenizer.json, give the same ids in the `tokenizers` package, and can be read again."""

import json
import random

import pytest
import tokenizers

from minillm.interop.tokenizer_json import read_tokenizer
from minillm.interop.tokenizer_writing import write_tokenizer
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.build_tokenizer import TOKENIZERS, TokenizerConfig, train_tokenizer
from minillm.tokenizers.role_template import with_roles
from minillm.tokenizers.tokenizer import END, Tokenizer
from tests.interop.tokenizer_families import FAMILIES, TEXTS, file_of, random_text, reference

pytest.importorskip("regex")

N_STRINGS, N_SLOW = 1_000, 20_000
CORPUS = [*TEXTS, "aaa aaaa aaaaa    ab  abab ======== xxxx  " * 5, "<0x41> <|end|> <unk> ▁ a▁b" * 10]
RUNS = ["a", "b", "aa", "ab", "aba", " ", "  ", "=", "x", "the", "the ", "\n", "▁"]
KINDS = sorted(TOKENIZERS.keys() - {"sentencepiece-unigram"})
each_kind = pytest.mark.parametrize("kind", KINDS)


def package_of(tokenizer: Tokenizer, **how: object) -> tokenizers.Tokenizer:
    package = tokenizers.Tokenizer.from_str(json.dumps(write_tokenizer(tokenizer, **how)))
    package.encode_special_tokens = True  # text that looks like a special token is text
    return package


def assert_the_same(kind: str, n_strings: int) -> None:
    """The same ids, and the same decoded text. BERT's words are compared in tests/tokenizers for every character."""
    tokenizer, generator = train_tokenizer(TokenizerConfig(kind, 600), CORPUS), random.Random(kind)
    compare(kind, tokenizer, generator, n_strings)
    if kind != "wordpiece":  # of encoders, which hold no conversations; the package decodes spaces of its own there
        compare(kind, with_roles(tokenizer), generator, n_strings // 5)


def compare(kind: str, tokenizer: Tokenizer, generator: random.Random, n_strings: int) -> None:
    """The same as `assert_the_same`, of one tokenizer."""
    package, known = package_of(tokenizer), set("".join(CORPUS))
    assert package.get_vocab_size() == tokenizer.vocab_size and package.token_to_id(END) == tokenizer.end_id
    for _ in range(n_strings):
        text = random_text(generator) + "".join(generator.choices(RUNS, k=generator.randint(0, 30)))
        text += generator.choice(["", "", "<think>a b</think> a", "<|user|> <|turn|>", "</think><think>"])
        if kind == "char":
            text = "".join(char for char in text if char in known)
        if kind == "wordpiece":
            text = "".join(char for char in text if ord(char) < 0x600)
        ids = tokenizer.encode(text)
        assert package.encode(text).ids == ids, text
        decoded = tokenizer.decode(ids)
        assert package.decode(ids) == (decoded.removeprefix(" ") if kind == "wordpiece" else decoded)


@each_kind
def test_ids_and_decoding_are_the_packages(kind):
    assert_the_same(kind, N_STRINGS)


@pytest.mark.slow
@each_kind
def test_ids_and_decoding_are_the_packages_for_twenty_thousand_strings(kind):
    assert_the_same(kind, N_SLOW)


@pytest.mark.parametrize("kind", ["bpe", "byte", "sentencepiece-bpe", "wordpiece"])
def test_what_is_written_can_be_read_and_has_the_same_ids(kind):
    tokenizer, generator = train_tokenizer(TokenizerConfig(kind, 600), CORPUS), random.Random(kind)
    again = read_tokenizer(write_tokenizer(tokenizer), {"eos_token": END})
    assert (again.end_id, again.vocab_size) == (tokenizer.end_id, tokenizer.vocab_size)
    for _ in range(100):
        text = random_text(generator)
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("name", FAMILIES)
def test_tokenizers_of_other_people_are_written_as_they_were_read(name):
    tokenizer, generator = read_tokenizer(file_of(name), FAMILIES[name]["config"]), random.Random(name)
    written = write_tokenizer(tokenizer)
    config = {"eos_token": next(a.text for a in tokenizer.pipeline.added if a.token == tokenizer.end_id)}
    roles = {"additional_special_tokens": list(tokenizer.added.special)}
    again = read_tokenizer(written, {**config, **roles})
    assert again.to_dict() == tokenizer.to_dict()
    package = tokenizers.Tokenizer.from_str(json.dumps(written))
    for _ in range(100):
        text = random_text(generator)
        assert package.encode(text).ids == reference(name, special=True).encode(text).ids


def test_tokens_that_open_every_text_are_put_there_by_the_package():
    tokenizer = train_tokenizer(TokenizerConfig("bpe", 300), CORPUS)
    package = package_of(tokenizer, opening=[tokenizer.end_id])
    assert package.encode("a b").ids == [tokenizer.end_id, *tokenizer.encode("a b")]
    assert package.encode("a b", add_special_tokens=False).ids == tokenizer.encode("a b")
    with pytest.raises(ValueError, match="id 5 before or after every text: expected a special token"):
        write_tokenizer(tokenizer, opening=[5])


def test_gpt2s_own_end_in_the_middle_keeps_its_id():
    trained = BPETokenizer.train(CORPUS, 300)
    pieces = [*trained.pieces[:270], b"", *trained.pieces[270:-1]]
    tokenizer = BPETokenizer(pieces, trained.merges, end_id=270)
    package = package_of(tokenizer)
    assert package.token_to_id(END) == 270 and package.encode(CORPUS[0]).ids == tokenizer.encode(CORPUS[0])


def test_a_character_that_the_training_text_lacks_is_refused_there_too():
    tokenizer = train_tokenizer(TokenizerConfig("char"), ["abc"])
    with pytest.raises(Exception, match="WordLevel error"):
        package_of(tokenizer).encode("abd")


def test_what_cannot_be_written_exactly_is_refused():
    with pytest.raises(ValueError, match="adds scores in 32 bits"):
        write_tokenizer(train_tokenizer(TokenizerConfig("sentencepiece-unigram", 400), CORPUS))

    class Other(BPETokenizer):
        pass

    with pytest.raises(ValueError, match="Other: expected one of BPETokenizer"):
        write_tokenizer(Other.from_dict(BPETokenizer.train(CORPUS, 300).to_dict()))

"""Every tokenizer fulfils the contract of `minillm.tokenizers.tokenizer`."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers.build_tokenizer import TOKENIZERS, TokenizerConfig, tokenizer_from_dict, train_tokenizer
from minillm.tokenizers.tokenizer import END, StreamDecoder, Tokenizer

CORPUS = [
    "Once upon a time there was a hedgehog. The hedgehog had 37 apples, and 73 pears.\n",
    "    def apples(self):\n\treturn self._apples  # naïve\n\n" * 3,
    "<|end|> <unk> <s> </s> <0x41> zażółć 漢字かな 🦔🦔🦔 ½ Ⅷ \u2581 \u2585 a\0b \r\n\x1c",
    "",
]
LIKE_SPECIAL = [END, "<unk>", "<s>", "</s>", "<pad>", "<0x41>", "<0xE2>"]
ESCAPES = ["\u2581", "\u2581\u2581the", " \u2581 ", "\u2585", "\u2047"]
SPACED = ["\n", "\n\n\n", "\r\n", "\t\t", " ", "   ", " a", "a  ", "  a  b  ", "\x85", "\u2028", "\x1c\x1d"]
ODD = ["\0", "\ufeff", "\ufffd", "\ufb01", "\uff21", "e\u0301", "½a", "_a_", "'s're", "🦔", "🦔\u200d🦔", "\U0010ffff"]
NASTY = LIKE_SPECIAL + ESCAPES + SPACED + ODD

KINDS = pytest.mark.parametrize("kind", TOKENIZERS)
laws = settings(max_examples=30, deadline=None)


@cache
def tokenizer(kind: str) -> Tokenizer:
    return train_tokenizer(TokenizerConfig(kind, vocab_size=331), CORPUS)


@cache
def reloaded(kind: str) -> Tokenizer:
    return tokenizer_from_dict(json.loads(json.dumps(tokenizer(kind).to_dict())))


def draw_text(data: st.DataObject, kind: str) -> str:
    """Any string, often made of nasty parts; for `char` from the characters of the corpus."""
    known = "".join(sorted(set().union(*CORPUS)))
    alphabet = st.sampled_from(known) if kind == "char" else st.characters(codec="utf-8")
    parts = [part for part in NASTY if set(part) <= set(known)] if kind == "char" else NASTY
    return "".join(data.draw(st.lists(st.one_of(st.text(alphabet), st.sampled_from(parts)), max_size=6)))


def draw_tokens(data: st.DataObject, kind: str) -> list[int]:
    return data.draw(st.lists(st.integers(0, tokenizer(kind).vocab_size - 1)))


@KINDS
def test_a_tokenizer_says_its_own_kind(kind):
    assert tokenizer(kind).to_dict()["kind"] == kind
    assert type(tokenizer(kind)) is TOKENIZERS[kind].cls


@KINDS
@laws
@given(data=st.data())
def test_decode_gives_back_every_text_or_one_with_the_same_ids(kind, data):
    text = draw_text(data, kind)
    tokens = tokenizer(kind).encode(text)
    if tokenizer(kind).lossless:
        assert tokenizer(kind).decode(tokens) == text
        assert tokenizer(kind).decode_bytes(tokens) == text.encode()
    elif tokenizer(kind).unknown not in tokens:
        assert tokenizer(kind).encode(tokenizer(kind).decode(tokens)) == tokens


def test_wordpiece_alone_of_our_own_is_not_lossless():
    assert [kind for kind in TOKENIZERS if not tokenizer(kind).lossless] == ["wordpiece"]


@KINDS
@laws
@given(data=st.data())
def test_text_never_becomes_a_special_token_nor_an_id_outside_the_vocabulary(kind, data):
    text = draw_text(data, kind)
    special = set(tokenizer(kind).special_tokens.values())
    for token in tokenizer(kind).encode(text + END + text):
        assert isinstance(token, int) and 0 <= token < tokenizer(kind).vocab_size and token not in special


@KINDS
@laws
@given(data=st.data())
def test_a_tokenizer_read_back_from_json_gives_the_same_ids(kind, data):
    text = draw_text(data, kind)
    assert reloaded(kind).encode(text) == tokenizer(kind).encode(text)
    assert (reloaded(kind).vocab_size, reloaded(kind).end_id) == (tokenizer(kind).vocab_size, tokenizer(kind).end_id)


@KINDS
@laws
@given(data=st.data())
def test_encode_many_is_encode_of_each(kind, data):
    texts = [draw_text(data, kind) for _ in range(data.draw(st.integers(0, 4)))]
    assert tokenizer(kind).encode_many(texts) == [tokenizer(kind).encode(text) for text in texts]


@KINDS
@laws
@given(data=st.data())
def test_streamed_text_joined_is_the_text_decoded_at_once_for_any_ids(kind, data):
    tokens = draw_tokens(data, kind)
    stream = StreamDecoder(tokenizer(kind))
    assert "".join(map(stream.push, tokens)) + stream.flush() == tokenizer(kind).decode(tokens)


@KINDS
def test_every_single_id_decodes_alone_and_ids_read_back_decode_the_same(kind):
    for token in range(tokenizer(kind).vocab_size):
        assert tokenizer(kind).decode_bytes([token]) == reloaded(kind).decode_bytes([token])
        assert (tokenizer(kind).decode_bytes([token]) == b"") == (token == tokenizer(kind).end_id)


@KINDS
def test_end_stands_for_nothing(kind):
    t = tokenizer(kind)
    assert t.special_tokens == {END: t.end_id} and 0 <= t.end_id < t.vocab_size
    assert t.decode([t.end_id, *t.encode("a time"), t.end_id]) == t.decode(t.encode("a time"))
    assert t.encode_parts([t.end_id, "a time", t.end_id]) == [t.end_id, *t.encode("a time"), t.end_id]


@KINDS
@pytest.mark.parametrize("outside", [-1, -331, 10**6, None])
def test_an_id_outside_the_vocabulary_is_an_error(kind, outside):
    t = tokenizer(kind)
    wrong = t.vocab_size if outside is None else outside
    with pytest.raises(ValueError, match=rf"tokens\[1\] = {wrong}: expected 0 \.\.\. {t.vocab_size - 1}"):
        t.decode([0, wrong])


@KINDS
def test_half_of_a_surrogate_pair_is_not_text(kind):
    for call in (tokenizer(kind).encode, lambda text: tokenizer(kind).encode_many(["a", text])):
        with pytest.raises(ValueError, match=r"text\[2\] = '\\ud800': expected"):
            call("a \ud800")


@KINDS
def test_training_twice_gives_the_same_tokenizer(kind):
    again = train_tokenizer(TokenizerConfig(kind, vocab_size=331), iter(CORPUS))
    assert again.to_dict() == tokenizer(kind).to_dict()


@KINDS
def test_the_vocabulary_is_never_larger_than_asked_for(kind):
    for vocab_size in (307, 331, 5003):
        t = train_tokenizer(TokenizerConfig(kind, vocab_size), CORPUS)
        assert t.vocab_size <= vocab_size
        assert not t.lossless or t.decode(t.encode(CORPUS[2])) == CORPUS[2]


@KINDS
def test_an_empty_text_has_no_tokens(kind):
    assert tokenizer(kind).encode("") == [] and tokenizer(kind).decode([]) == ""


@pytest.mark.parametrize("kind", ["sentencepiece-bpe", "sentencepiece-unigram", "bpe", "unigram"])
def test_a_vocabulary_too_small_for_the_bytes_is_refused(kind):
    with pytest.raises(ValueError, match="vocab_size = 200: expected"):
        train_tokenizer(TokenizerConfig(kind, 200), CORPUS)


@pytest.mark.parametrize("kind", sorted(set(TOKENIZERS) - {"byte"}))
def test_training_refuses_what_is_not_text(kind):
    with pytest.raises(ValueError, match="expected Unicode text"):
        train_tokenizer(TokenizerConfig(kind, 300), ["fine", "\udc00"])


@pytest.mark.parametrize("kind", sorted(set(TOKENIZERS) - {"byte"}))
@pytest.mark.parametrize("texts", [[], [""]])
def test_training_on_nothing_is_refused(kind, texts):
    with pytest.raises(ValueError, match="expected some to learn from"):
        train_tokenizer(TokenizerConfig(kind, 300), texts)


def test_an_unknown_kind_is_answered_with_a_guess():
    with pytest.raises(ValueError, match="did you mean sentencepiece-bpe"):
        train_tokenizer(TokenizerConfig("sentencepice-bpe"), CORPUS)
    with pytest.raises(ValueError, match="kind = None: expected one of"):
        tokenizer_from_dict({})

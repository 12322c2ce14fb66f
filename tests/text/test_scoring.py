"""Scores of given texts equal those of a text read anew for every token, and fulfil the laws of probability."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.batch import Batch
from minillm.decoding.beam import BeamConfig
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, seeded
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.text import scoring
from minillm.text.model import TextModel
from minillm.text.translator import Translator
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.sentencepiece import SentencePieceTokenizer
from tests import tiny

law = settings(max_examples=15)
CORPUS = ["a cat sat on a mat. a catfish ate a rat, and é", "the cat ate the mat"] * 9
LETTERS = CharTokenizer("abcdef")
TOKENIZERS = {
    "char": CharTokenizer.train(CORPUS),
    "byte": ByteTokenizer(),
    "bpe": BPETokenizer.train(CORPUS, 300),
    "sentencepiece": SentencePieceTokenizer.train(CORPUS, 300),
}
MODELS = ("decoder", "lstm", "n-gram")


@cache
def model(kind: str, vocab_size: int):
    torch.manual_seed(0)
    if kind == "decoder":
        config = tiny.config(n_kv_heads=2, context_length=64)
        return tiny.Decoder(config, vocab_size).double().train()  # scoring must switch to eval mode
    if kind == "lstm":
        return RNN(RNNConfig(d_hidden=7, init_embed=1.0, dropout=0.3), vocab_size).double()
    counted = Ngram(NgramConfig(order=3), vocab_size).double()
    text = torch.randint(vocab_size, (3, 50), generator=torch.Generator().manual_seed(5))
    counted.count(Batch(text[:, :-1], text[:, 1:]))
    return counted


def text_model(kind: str, tokenizer=LETTERS, documents: bool = True) -> TextModel:
    return TextModel(model(kind, tokenizer.vocab_size), tokenizer, documents)


@torch.inference_mode()
def slowly(text: TextModel, ids: list[int], n_given: int) -> list[float]:
    """The log-probability of each token after the first `n_given`, from one read of all tokens before it."""
    net, logprobs = text.model, []
    net.eval()
    for n in range(n_given, len(ids)):
        logits = net(torch.tensor([ids[:n]]))[0][0, -1]
        logprobs.append(float(logits.double().log_softmax(-1)[ids[n]]))
    return logprobs


def test_no_more_logits_are_made_at_once_than_allowed_unless_one_text_has_more(monkeypatch):
    text, sizes = text_model("n-gram"), []
    plain = text._read
    monkeypatch.setattr(text, "_read", lambda tokens, about: sizes.append(tuple(tokens.shape)) or plain(tokens, about))
    monkeypatch.setattr(scoring, "AT_ONCE", 20 * LETTERS.vocab_size)
    text.logprobs(["a", "bcd", "abcdefabcdefabcdefabcdef", "abcdefabc", "ab", "abcdef"])
    assert sizes == [(1, 24), (2, 9), (3, 3)]


some, more = st.text("abcdef", max_size=6), st.text("abcdef", min_size=1, max_size=6)


@pytest.mark.parametrize("kind", MODELS)
@law
@given(st.lists(st.tuples(some, more), min_size=1, max_size=4), st.sampled_from([1, 30, 10**6]))
def test_a_batch_is_its_texts_alone_and_slow_however_many_are_read_at_once(kind, pairs, at_once):
    text, (contexts, texts) = text_model(kind), zip(*pairs, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "AT_ONCE", at_once)
        found, sums = text.logprobs(texts, contexts), text.score(contexts, texts)
    for context, written, tokens, total in zip(contexts, texts, found, sums, strict=True):
        ids = [LETTERS.end_id, *LETTERS.encode(context + written)]
        expected = slowly(text, ids, 1 + len(context))
        assert [token.logprob for token in tokens] == pytest.approx(expected, abs=1e-10)
        assert "".join(token.text for token in tokens) == written and total == pytest.approx(sum(expected), abs=1e-10)


@pytest.mark.parametrize("kind", MODELS)
@law
@given(some, more, more)
def test_the_chain_rule_holds(kind, context, a, b):
    text = text_model(kind)
    whole, first, second, alone, before = text.score(
        [context, context, context + a, "", ""], [a + b, a, b, context + a, context or a]
    )
    assert whole == pytest.approx(first + second, abs=1e-10)
    assert first == pytest.approx(alone - (before if context else 0.0), abs=1e-10)


@pytest.mark.parametrize("name", TOKENIZERS)
@law
@given(st.lists(st.sampled_from(["a", " cat", "fish", " ", "é", "ma", "t. "]), min_size=1, max_size=6), st.data())
def test_context_and_text_are_split_between_tokens_of_the_whole_and_something_is_always_scored(name, pieces, data):
    """Where a token reaches across the border, it is scored with the text."""
    tokenizer = TOKENIZERS[name]
    text, whole = text_model("n-gram", tokenizer), "".join(pieces)
    cut = data.draw(st.integers(0, len(whole) - 1))
    context, written = whole[:cut], whole[cut:]
    [everything], [scored] = text.logprobs([whole]), text.logprobs([written], [context])
    tokens, bytes_of = tokenizer.encode(whole), lambda ids: len(tokenizer.decode_bytes(ids))
    n_given = len(tokens) - len(scored)
    assert 0 <= n_given < len(tokens)
    assert [token.logprob for token in scored] == pytest.approx([t.logprob for t in everything[n_given:]], abs=1e-10)
    assert bytes_of(tokens[:n_given]) <= len(context.encode()) < bytes_of(tokens[: n_given + 1])
    agrees = bytes_of(tokens[:n_given]) == len(context.encode()) and tokenizer.encode(context) == tokens[:n_given]
    if agrees and context:
        parts = text.score(["", context], [context, written])
        assert sum(parts) == pytest.approx(text.score([""], [whole])[0], abs=1e-10)


def test_a_token_across_the_border_is_scored_where_a_slice_would_leave_nothing():
    bpe = TOKENIZERS["bpe"]
    assert len(bpe.encode(" cat")) == 1 and len(bpe.encode("a cat")) == 2
    text = text_model("decoder", bpe)
    [[token]] = text.logprobs(["t"], ["a ca"])
    assert token.text == " cat" and [token] == text.logprobs([" cat"], ["a"])[0]


@pytest.mark.parametrize("kind", MODELS)
@given(context=some)
@settings(max_examples=5)
def test_all_letters_and_the_end_make_up_all_that_can_follow(kind, context):
    text = text_model(kind)
    ids = text.encode(context)
    with torch.inference_mode():
        end = float(text.model.eval()(torch.tensor([ids]))[0][0, -1].softmax(-1)[LETTERS.end_id])
    assert sum(map(math.exp, text.score([context] * 6, list("abcdef")))) == pytest.approx(1 - end, abs=1e-9)


def test_what_is_written_has_the_score_that_it_was_drawn_with():
    text = text_model("lstm")
    out = generate(
        text.model, [text.encode("ab"), text.encode("")], Sampler(), max_new_tokens=9, generators=seeded([1, 2])
    )
    for context, completion in zip(("ab", ""), out, strict=True):
        written = LETTERS.decode(completion.tokens)
        if LETTERS.end_id not in completion.tokens:
            assert text.score([context], [written])[0] == pytest.approx(math.fsum(completion.logprobs), abs=1e-9)
    assert any(LETTERS.end_id not in completion.tokens for completion in out)


def test_a_paragraph_of_one_long_text_begins_with_a_new_line():
    tokenizer = CharTokenizer("ab\n")
    text = text_model("n-gram", tokenizer, documents=False)
    [found] = text.logprobs(["ab"])
    assert [t.logprob for t in found] == pytest.approx(slowly(text, tokenizer.encode("\nab"), 1), abs=1e-10)


def test_the_mode_of_the_model_is_what_it_was():
    text = text_model("lstm")
    text.model.train()
    first, again = text.score(["ab"] * 2, ["cd"] * 2)
    assert first == again and all(module.training for module in text.model.modules())


def translator() -> Translator:
    torch.manual_seed(3)
    shape = EncoderDecoderConfig(n_layers=1, d_model=12, n_heads=3, d_ff=10, context_length=12)
    tokenizer = CharTokenizer("abcdef ")
    net = EncoderDecoder(shape, tokenizer.vocab_size).double()
    net.embed.weight.data *= 3
    return Translator(net, tokenizer, documents=True)


def test_a_translation_is_scored_as_beam_search_scores_it_given_its_own_source():
    text, sources = translator(), ["abc", "fed ba"]
    # all texts of two tokens and END: at most 7 x 7 of them are probable
    every = BeamConfig(400, num_return=400, early_stopping="never")
    for source in sources:
        found = text.search(source, every, SamplingConfig(), max_new_tokens=3)
        logprobs = {each.text: each.logprob for each in found if each.length == len(each.text) + 1}
        words = [each.strip() for each in logprobs if each[:1] == " " != each[1:2] and len(each) == 2]
        assert sorted(words) == list("abcdef")
        scores = text.score([source, *sources] * 6, [x for word in words for x in (word, "a", "bad")])
        assert scores[::3] == pytest.approx([logprobs[f" {word}"] for word in words], abs=1e-9)
    assert text.score(["abc"], ["de"]) != text.score(["fed"], ["de"])
    assert [token.text for token in text.logprobs(["de"], ["abc"])[0]] == [" ", "d", "e", ""]


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda text: text.score(["ab"], [""]), r"^text 0 = '': expected at least one character"),
        (lambda text: text.score(["ab", "a"], ["b"]), r"^2 contexts: expected one for each of the 1 texts"),
        (lambda text: text.score("ab", ["c"]), r"^contexts = 'ab': expected a list of texts; write \['ab'\]"),
        (lambda text: text.logprobs("ab"), r"^texts = 'ab': expected a list of texts"),
        (lambda text: text.score(["a"], ["xyz"]), "x"),
        (
            lambda text: text.score(["a", "a" * 60], ["b", "abcdef"]),
            r"^text 1 and its context: 66 tokens to read, expected at most context_length = 64; shorten",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(ask, sentence):
    with pytest.raises(ValueError, match=sentence):
        ask(text_model("decoder"))


def test_the_last_token_need_not_fit_and_nothing_asked_is_nothing_found():
    assert text_model("decoder").score(["a" * 60], ["abcd"])[0] < 0
    assert text_model("decoder").score([], []) == []
    with pytest.raises(ValueError, match=r"^contexts = None: expected the sources"):
        translator().logprobs(["ab"])

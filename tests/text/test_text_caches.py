"""Text is generated with any cache; a model without keys and values refuses one."""

import pytest
import torch

from minillm.cache.build_cache import CacheConfig, build_cache
from minillm.decoding.sampler import SamplingConfig
from minillm.models.decoder import Decoder
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import RNN, RNNConfig
from minillm.text.model import TextModel
from minillm.text.translator import Translator
from minillm.tokenizers.byte import ByteTokenizer
from tests import tiny

BYTES, GREEDY = ByteTokenizer(), SamplingConfig(temperature=0)
CACHES = {"paged": 80, "int8": 0, "int4": 0, "streaming": 24, "h2o": 24, "snapkv": 24}


def written(text, prompts, cache=None):
    start = cache and text.start(prompts, cache)
    return [c.text for c in text.generate(prompts, GREEDY, max_new_tokens=8, seeds=range(len(prompts)), start=start)]


@pytest.mark.parametrize("name", CACHES)
def test_a_text_that_fits_is_the_same_with_every_cache(name):
    cache = build_cache(CacheConfig(name, CACHES[name]))
    model = Decoder(tiny.config(n_kv_heads=2, context_length=40), BYTES.vocab_size).double()
    text = TextModel(model, BYTES, documents=True)
    assert written(text, ["a cat", "two dogs ran"], cache) == written(text, ["a cat", "two dogs ran"])
    if name != "streaming":
        sizes = {"n_layers": 1, "d_model": 12, "n_heads": 3, "context_length": 40}
        translator = Translator(
            EncoderDecoder(EncoderDecoderConfig(**sizes), BYTES.vocab_size).double(), BYTES, documents=True
        )
        assert written(translator, ["a cat", "two dogs ran"], cache) == written(translator, ["a cat", "two dogs ran"])


@pytest.mark.parametrize("model", [RNN(RNNConfig(d_hidden=5), 257), Ngram(NgramConfig(), 257)], ids=["RNN", "Ngram"])
def test_a_model_without_keys_and_values_refuses_a_cache(model):
    text = TextModel(model, BYTES, documents=True)
    assert text.start(["a cat"]) is None
    with pytest.raises(ValueError, match=rf"cache: expected none beside {type(model).__name__}"):
        text.start(["a cat"], build_cache(CacheConfig("int8")))


def test_a_prompt_that_fills_the_context_leaves_room_only_in_a_cache_without_end():
    model = Decoder(tiny.config(n_kv_heads=2, context_length=9), BYTES.vocab_size).double()
    text = TextModel(model, BYTES, documents=True)
    streaming = text.start(["abcdefgh", "abc"], build_cache(CacheConfig("streaming", 6)))
    torch.manual_seed(0)
    how = {"max_new_tokens": 20, "seeds": [0, 1]}
    plain = text.generate(["abcdefgh", "abc"], SamplingConfig(banned_tokens=(256,)), **how)
    endless = text.generate(["abcdefgh", "abc"], SamplingConfig(banned_tokens=(256,)), **how, start=streaming)
    assert [(c.n_tokens, c.reason) for c in plain] == [(0, "context"), (5, "context")]
    assert [(c.n_tokens, c.reason) for c in endless] == [(20, "length")] * 2

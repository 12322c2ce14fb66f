"""Virtual tokens equal real tokens with those embeddings, or those keys and values, in every model and every cache."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.adapters.build_adapter import add_adapter
from minillm.adapters.merge import adapted_layers
from minillm.adapters.prefix import PrefixConfig, PrefixedAttention
from minillm.adapters.soft_prompt import SoftPromptConfig
from minillm.cache.filled import FilledCache
from minillm.cache.kv_cache import NoCache
from minillm.cache.streaming import StreamingCache
from minillm.constants import EMPTY
from minillm.decoding.attention_map import self_attention
from minillm.models.rnn import RNN, RNNConfig
from minillm.tokenizers.char import CharTokenizer
from tests.adapters.models import KINDS, MODELS, VIRTUAL, adapted, encoder, logits, translator
from tests.contracts.test_caches import COMPLETE
from tests.tiny import SHAPES, VOCAB, assert_equal, decoder, tokens

P = 5
each_shape = pytest.mark.parametrize("name", SHAPES)
padded = torch.tensor([[EMPTY, 3, 9, EMPTY, 1, 1, 7], [4, 4, 2, 20, 5, 6, 11], [EMPTY, EMPTY, EMPTY, 8, 8, 1, EMPTY]])


@each_shape
def test_a_fresh_soft_prompt_is_the_text_that_it_starts_as(name):
    model, t = adapted(SoftPromptConfig(length=P), MODELS[name], fresh=True), tokens(3, 11)
    whole = torch.cat([model.ids.expand(3, P), t], 1)
    assert_equal(model(t)[0], MODELS[name]()(whole)[0][:, P:])


@each_shape
def test_a_soft_prompt_is_real_tokens_with_its_embeddings_and_its_gradient_is_theirs(name):
    model, plain = adapted(SoftPromptConfig(length=P), MODELS[name]), MODELS[name]()
    ids = torch.cat([model.ids.expand(3, P), padded], 1)
    prompt = model.vectors.detach().clone().requires_grad_()
    vectors = torch.cat([prompt.expand(3, -1, -1), plain.embed(padded.clamp(min=0))], 1)
    expected = plain.head(plain.hidden(ids, vectors=vectors)[0])[:, P:]
    found = model(padded)[0]
    real = padded >= 0
    assert_equal(found[real], expected[real])
    for out in (found, expected):
        (out[real] ** 2).sum().backward()
    assert_equal(model.vectors.grad, prompt.grad)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "n-gram embeddings"])
def test_a_prefix_is_what_real_tokens_would_have_left_in_the_cache(name):
    model, plain, before = adapted(PrefixConfig(length=P), MODELS[name]), MODELS[name](), tokens(1, P, seed=7)
    state = plain.start(1)
    plain(before, state)
    prefixed = [module for module in model.modules() if isinstance(module, PrefixedAttention)]
    for layer, cache in zip(prefixed, state.caches, strict=True):
        layer.prefix.k.data, layer.prefix.v.data = cache.k[:, :, :P], cache.v[:, :, :P]
    whole = torch.cat([before.expand(3, -1), padded], 1)
    real = padded >= 0
    assert_equal(model(padded)[0][real], plain(whole)[0][:, P:][real])


def test_both_sides_of_an_encoder_decoder_have_a_prefix_and_cross_attention_has_none():
    model = adapted(PrefixConfig(length=P), translator)
    paths = [path for path, layer in adapted_layers(model).items() if isinstance(layer, PrefixedAttention)]
    assert paths == [f"{side}.{i}.attention" for side in ("encoder", "decoder") for i in range(2)]
    t, source = tokens(2, 7), tokens(2, 9, seed=1)
    state = model.start(2, source=source)
    parts = [model(part, state)[0] for part in t.split([1, 4, 2], dim=1)]
    assert_equal(torch.cat(parts, 1), model(t, source=source)[0])


def test_an_encoder_sees_its_prefix_from_everywhere_and_padding_changes_nothing():
    model = adapted(PrefixConfig(length=P), encoder)
    row = torch.tensor([[3, 9, 1, 1, 7]])
    longer = torch.tensor([[3, 9, 1, 1, 7, EMPTY, EMPTY]])
    assert_equal(model(longer)[:, :5], model(row))
    weights = []
    for layer in model.blocks:
        layer.attention.prefix.v.data *= 3
        weights.append(model(row))
    assert ((weights[0] - weights[1]).abs().amax(-1) > 1e-6).all()


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("cache", COMPLETE.values(), ids=COMPLETE)
@settings(max_examples=4)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5), name=st.sampled_from(["llama", "normed queries"]))
def test_every_cache_reads_on_behind_virtual_tokens_as_if_there_were_none(kind, cache, cuts, name):
    build = partial(decoder, **SHAPES[name], context_length=64)
    model, t = adapted(KINDS[kind], build), tokens(3, sum(cuts))
    state = model.start(3, cache=cache)
    parts = [model(part, state)[0] for part in t.split(cuts, dim=1)]
    assert_equal(torch.cat(parts, 1), model(t)[0])
    assert state.lengths.tolist() == [sum(cuts)] * 3, "virtual tokens are not counted"


@pytest.mark.parametrize("kind", VIRTUAL)
def test_rows_are_reordered_and_taken_back_without_the_virtual_tokens(kind):
    model, t = adapted(KINDS[kind], MODELS["llama"]), tokens(3, 9)
    state = model.start(3)
    model(t[:, :6], state)
    state.reorder(torch.tensor([2, 0, 0]), since=0)
    state.truncate(torch.tensor([4, 4, 0]))
    assert state.lengths.tolist() == [4, 4, 0] and state.rollback == "truncate"
    chunk = torch.cat([t[:, 4:6], t[:, 6:]], 1)
    found = model(chunk, state)[0]
    expected = [torch.cat([t[2, :4], chunk[0]]), torch.cat([t[0, :4], chunk[1]]), chunk[2]]
    for row, text in zip(found, expected, strict=True):
        assert_equal(row, model(text[None])[0][0][-chunk.shape[1] :])


@pytest.mark.parametrize("kind", VIRTUAL)
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_virtual_tokens_take_places_of_the_context_and_no_more(kind, name):
    model = adapted(KINDS[kind], MODELS[name])
    most = 32 - KINDS[kind].length
    assert model.context_length == model.start(1).context_length == most == 32 - KINDS[kind].n_virtual
    model(tokens(1, most))
    with pytest.raises(ValueError, match=f"at most model.context_length = {most}"):
        model(tokens(1, most + 1))
    state = model.start(1)
    model(tokens(1, most - 1), state)
    with pytest.raises(ValueError, match=f"at most model.context_length = {most}"):
        model(tokens(1, 2), state)


@pytest.mark.parametrize("kind", VIRTUAL)
def test_an_endless_text_keeps_its_virtual_tokens(kind):
    model = adapted(KINDS[kind], MODELS["llama"])
    state = model.start(1, cache=lambda: StreamingCache(9, sinks=2))
    for i in range(40):
        out = model(tokens(1, 3, seed=i), state)[0]
    before = out
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data *= 1.5
    other = model.start(1, cache=lambda: StreamingCache(9, sinks=2))
    for i in range(40):
        out = model(tokens(1, 3, seed=i), other)[0]
    assert (out - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="budget = 30: expected less than"):
        model.start(1, cache=lambda: StreamingCache(30))


def test_bytes_of_the_virtual_tokens_are_counted():
    model = adapted(KINDS["soft prompt"], MODELS["llama"])
    state = model.start(2)
    model(tokens(2, 3), state)
    assert state.nbytes() == sum(cache.nbytes() for cache in state.caches) + 2 * 2 * P * 2 * 4 * 8
    k = torch.randn(1, 2, P, 4)
    assert FilledCache(NoCache(), k, k).nbytes() == 2 * 4 * k.numel()


@pytest.mark.parametrize("kind", VIRTUAL)
def test_attention_maps_are_of_the_text_behind_the_virtual_tokens(kind):
    model, t = adapted(KINDS[kind], MODELS["llama"]), tokens(1, 7)
    weights = self_attention(model, t)
    assert weights.shape == (2, 1, 6, 7, 7) and (weights.sum(-1) < 1).all()
    assert not torch.allclose(weights, self_attention(MODELS["llama"](), t))


def test_a_soft_prompt_starts_as_the_tokens_of_a_text_or_as_random_ones():
    tokenizer = CharTokenizer("abcdefg")
    config = SoftPromptConfig(length=P, text="bad")
    model = add_adapter(decoder(), config)
    config.begin(model, tokenizer)
    expected = (tokenizer.encode("bad") * 2)[:P]
    assert model.ids.tolist() == expected
    assert torch.equal(model.vectors, model.base.embed(torch.tensor(expected)))
    with pytest.raises(ValueError, match="x"):
        SoftPromptConfig(text="x").begin(model, tokenizer)
    torch.manual_seed(0)
    one, other = (add_adapter(decoder(seed=i), SoftPromptConfig(length=P)).ids for i in (1, 2))
    assert not torch.equal(one, other)


BAD = {
    "a prompt as long as the context": (SoftPromptConfig(length=32), decoder, "adapter.length = 32: expected less"),
    "a prefix as long as the context": (PrefixConfig(length=32), encoder, "adapter.length = 32: expected less"),
    "a prompt for an encoder": (SoftPromptConfig(), encoder, "expected a decoder, not Encoder"),
    "a prompt for a recurrent model": (SoftPromptConfig(), lambda: RNN(RNNConfig(d_hidden=5), VOCAB), "not RNN"),
    "a prefix for a recurrent model": (PrefixConfig(), lambda: RNN(RNNConfig(d_hidden=5), VOCAB), "a transformer"),
}


@pytest.mark.parametrize(("adapter", "build", "sentence"), BAD.values(), ids=BAD)
def test_virtual_tokens_that_do_not_suit_a_model_are_refused_and_the_model_is_as_it_was(adapter, build, sentence):
    model = build()
    before = list(model.named_modules())
    with pytest.raises(ValueError, match=sentence):
        add_adapter(model, adapter)
    assert list(model.named_modules()) == before and all(p.requires_grad for p in model.parameters())
    assert logits(encoder()).shape[1] == 9

"""The contract of language models: `start_options` are right, and `vectors` replace embeddings in `hidden`."""

from functools import partial

import pytest
import torch

from minillm.cache.contiguous import ContiguousCache
from minillm.constants import EMPTY
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.ngram import Ngram, NgramConfig
from minillm.models.rnn import CELLS, RNN, RNNConfig
from tests.tiny import SHAPES, VOCAB, assert_equal, decoder, tokens

SOURCE = tokens(3, 5, seed=2)


def recurrent(**how) -> RNN:
    torch.manual_seed(0)
    return RNN(RNNConfig(d_hidden=11, init_embed=1.5, **how), VOCAB).double().eval()


class Translating(EncoderDecoder):
    """An encoder-decoder with a constant source, so that tests can call it like the other models."""

    def hidden(self, tokens, state=None, vectors=None, source=None):
        return super().hidden(tokens, state, vectors, SOURCE if state is None else None)

    def forward(self, tokens, state=None):
        return super().forward(tokens, state)

    def start(self, batch_size, **how):
        return super().start(batch_size, **{"source": SOURCE} | how)


def translating(norm_place: str) -> EncoderDecoder:
    torch.manual_seed(0)
    config = EncoderDecoderConfig(n_layers=2, d_model=12, n_heads=3, d_ff=17, context_length=16, norm_place=norm_place)
    return Translating(config, VOCAB).double().eval()


HIDDEN = {
    **{name: partial(decoder, **shape) for name, shape in SHAPES.items()},
    **{cell: partial(recurrent, cell=cell) for cell in CELLS},
    "narrow embeddings": partial(recurrent, d_embed=7, tied=False),
    "encoder-decoder": partial(translating, "post"),
    "pre-norm encoder-decoder": partial(translating, "pre"),
}
MODELS = HIDDEN | {"n-gram": lambda: Ngram(NgramConfig(), VOCAB).double()}
every_hidden_model = pytest.mark.parametrize("make", HIDDEN.values(), ids=HIDDEN)


def with_gaps() -> torch.Tensor:
    """Three texts with EMPTY on the left, on the right and inside."""
    text = tokens(3, 9)
    text[0, :3], text[1, -2:], text[2, 4:6] = EMPTY, EMPTY, EMPTY
    return text


@every_hidden_model
@pytest.mark.parametrize("text", [tokens(3, 9), with_gaps()], ids=["whole", "with gaps"])
@pytest.mark.parametrize("remembers", [False, True])
def test_embeddings_handed_in_are_embeddings_looked_up_and_the_head_reads_what_comes_out(make, text, remembers):
    model, read = make(), text >= 0
    vectors = model.embed(text.clamp(min=0))
    before = tokens(3, 4, seed=1)
    outputs = []
    for how in ({}, {"vectors": vectors}):
        state = model.start(3) if remembers else None
        if remembers:
            _, state = model(before, state)
        x, state = model.hidden(text, state, **how)
        outputs.append(x[read])
        assert state is None or state.lengths.tolist() == (4 + read.sum(1)).tolist()
    assert_equal(*outputs)
    if not remembers:
        assert_equal(model.head(outputs[0]), model(text)[0][read])


@every_hidden_model
def test_vectors_decide_what_is_read_and_get_a_gradient(make):
    model, text = make(), tokens(3, 9)
    vectors = torch.randn_like(model.embed(text)).requires_grad_()
    x, _ = model.hidden(text, vectors=vectors)
    (gradient,) = torch.autograd.grad(x.square().sum(), vectors)
    assert (gradient.abs().sum(-1) > 0).all()
    assert (x - model.hidden(text)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_start_takes_what_it_declares_and_nothing_else(name):
    model = MODELS[name]()
    assert (model.head is not None) == (name in HIDDEN)
    known = {"cache": ContiguousCache, "source": SOURCE}
    assert model.start_options <= known.keys()
    for option, value in known.items():
        if option in model.start_options:
            assert len(model.start(3, **{option: value}).lengths) == 3
        else:
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
                model.start(3, **{option: value})

"""One model of each family and mechanism, small enough to compare exactly, with its inputs and outputs."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from minillm.constants import EMPTY
from minillm.models.encoder import Encoder, EncoderConfig
from minillm.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from minillm.models.heads import Classifier
from minillm.models.rnn import RNN, RNNConfig
from tests.tiny import SHAPES, VOCAB, decoder, tokens


def encoder(**changes) -> Encoder:
    """Two layers of five heads."""
    sizes = {"n_layers": 2, "d_model": 20, "n_heads": 5, "d_ff": 17, "context_length": 32, "init_std": 0.4}
    return Encoder(EncoderConfig(**(sizes | changes)), VOCAB).double().eval()


def translator(**changes) -> EncoderDecoder:
    """Two layers of three heads on either side."""
    sizes = {"n_layers": 2, "d_model": 12, "n_heads": 3, "d_ff": 17, "context_length": 32, "dropout": 0.0}
    return EncoderDecoder(EncoderDecoderConfig(**(sizes | changes)), VOCAB).double().eval()


def recurrent(cell: str) -> RNN:
    """Two layers."""
    return RNN(RNNConfig(cell=cell, n_layers=2, d_hidden=11, init_embed=1.5), VOCAB).double().eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(decoder, **shape) for name, shape in SHAPES.items()},
    "squared relu in experts": partial(decoder, n_experts=3, feedforward="relu2", qk_norm=True),
    "encoder": partial(encoder, positions="learned", next_sentence=3),
    "encoder, pre-norm": partial(encoder, norm_place="pre", positions="rotary", feedforward="relu2"),
    "classifier": lambda: Classifier(encoder(), 3).double().eval(),
    "translator": partial(translator, norm_place="post"),
    "translator, pre-norm": partial(translator, norm_place="pre", feedforward="gelu"),
    **{cell: partial(recurrent, cell) for cell in ("rnn", "lstm", "gru")},
}


def texts() -> list[Tensor]:
    """A whole text, and one with padding."""
    ragged = tokens(3, 11, seed=1)
    ragged[0, :4], ragged[1, 7:], ragged[2, 5] = EMPTY, EMPTY, EMPTY
    return [tokens(3, 11), ragged]


def answers(model: nn.Module, text: Tensor) -> Tensor:
    """The output of a model for the tokens of a text."""
    out = model(text, source=tokens(3, 5, seed=2)) if isinstance(model, EncoderDecoder) else model(text)
    out = out[0] if isinstance(out, tuple) else out
    return out if out.dim() == 2 else out[text >= 0]

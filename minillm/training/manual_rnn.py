"""Backpropagation through time by hand: the next-token loss of `models/rnn.py` and all its derivatives.

`backprop/recurrent_model.py` computes the derivatives; this file adds them to the parameters. The equations there have
two biases, b_ih and b_hh. A layer of `layers/recurrent.py` has only b_ih, and in a GRU the part of b_hh that belongs to
n.
"""

import torch
from torch import Tensor, nn

from minillm.backprop.cross_entropy import cross_entropy, cross_entropy_backward
from minillm.backprop.recurrent import CELLS
from minillm.backprop.recurrent_model import recurrent_model, recurrent_model_backward
from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.layers.recurrent import GRU, LSTM, Elman, Recurrent
from minillm.models.rnn import RNN
from minillm.objectives.loss import Loss
from minillm.training.manual_modules import add, refuse_unknown


class ManualRNN:
    """Forward and backward of `next_token` for a recurrent model."""

    def __init__(self, model: RNN):
        """Raises ValueError for a model with a part that has no hand-written derivative."""
        refuse_unknown(model, (RNN, Elman, LSTM, GRU, nn.Embedding, nn.Dropout, nn.ModuleList))
        self.model = model

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Loss:
        """Return the summed loss, and add its derivatives to each .grad, as `loss.total.backward()` would."""
        model = self.model
        # As in the model, padding is moved behind the tokens of each row, where it affects nothing; targets move along.
        order = (batch.tokens < 0).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T)
        tokens, targets = (x.gather(1, order) for x in (batch.tokens, batch.targets))
        layers, states = [_weights(layer) for layer in model.layers], model.start(len(tokens)).layers
        tables = model.embed.weight, layers, model.head.weight

        (logits, _), kept = recurrent_model(CELLS[model.config.cell], tokens.clamp(min=0), states, *tables)
        total, kept_loss = cross_entropy(logits, targets, IGNORE)
        dtable, dlayers, dhead, _ = recurrent_model_backward(cross_entropy_backward(1.0, kept_loss), kept)

        add(model.embed.weight, dtable)
        add(model.head.weight, dhead)
        for layer, (dweight_x, dweight_h, dbias, dbias_h) in zip(model.layers, dlayers, strict=True):
            add(layer.weight_x, dweight_x)
            add(layer.weight_h, dweight_h)
            add(layer.bias, dbias)
            if isinstance(layer, GRU):
                add(layer.bias_h, dbias_h[-len(layer.bias_h) :])
        return Loss(total, (targets != IGNORE).sum())


def _weights(layer: Recurrent) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """w_ih, w_hh, b_ih, b_hh."""
    b_hh = torch.cat([layer.bias_h.new_zeros(2 * len(layer.bias_h)), layer.bias_h]) if isinstance(layer, GRU) else None
    return layer.weight_x, layer.weight_h, layer.bias, b_hh

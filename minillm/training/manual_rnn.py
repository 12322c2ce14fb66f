"""A recurrent model's next-token loss and all its derivatives, without autograd: `models/rnn.py`, walked there and back through time.

The walk itself is `backprop/recurrent_model.py`; here its derivatives find their parameters. A layer of
`layers/recurrent.py` has one bias where the equations have two: that of the text, and in a GRU that of the recalled
part of n alone.
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
    """`next_token` of a recurrent model, forward and backward."""

    def __init__(self, model: RNN):
        """Raises ValueError for a part whose derivative is not written."""
        refuse_unknown(model, (RNN, Elman, LSTM, GRU, nn.Embedding, nn.Dropout, nn.ModuleList))
        self.model = model

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Loss:
        """The summed loss; its derivatives are added to the .grad of the parameters, as `loss.total.backward()` would."""
        model = self.model
        # As in the model, padding moves behind each row's tokens, where it comes too late to be read; targets move
        # along.
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

"""Training with hand-written derivatives: the step of `step.py` without autograd.

Division by the count, clipping, optimizer, learning rate and checkpoints are those of every gradient step; only the
source of the gradients differs. The gradients equal autograd's up to rounding, so a run follows the one with autograd.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from minillm.datasets.batch import Batch, moved
from minillm.models.decoder import Decoder
from minillm.models.rnn import RNN
from minillm.objectives.loss import Loss, Objective
from minillm.objectives.next_token import next_token
from minillm.training.manual_decoder import ManualDecoder
from minillm.training.manual_rnn import ManualRNN
from minillm.training.step import GradientStep, Parts

Walk = Callable[[Batch], Loss]  # returns the summed loss, and adds its derivatives to the .grad of its model

WALKS: dict[type[nn.Module], Callable[[Any], Walk]] = {Decoder: ManualDecoder, RNN: ManualRNN}


class ManualStep(GradientStep):
    """A `GradientStep` with hand-written derivatives, in float32."""

    def __init__(self, model: nn.Module, objective: Objective, *rest: Any, precision: str = "fp32", **how: Any):
        """As `GradientStep`. Raises ValueError for a model, objective or precision without hand-written derivatives."""
        if objective is not next_token:
            name = "a smoothed one" if isinstance(objective, partial) else objective.__name__
            raise ValueError(f"task.backward = manual: expected next-token prediction, not {name}; use autograd")
        if precision == "bf16":
            raise ValueError(
                "train.precision = bf16: expected fp32 or auto beside task.backward = manual; change one of the two"
            )
        if type(model) not in WALKS:
            known = " or ".join(kind.__name__ for kind in WALKS)
            raise ValueError(f"task.backward = manual: expected a {known}, not a {type(model).__name__}; use autograd")
        super().__init__(model, objective, *rest, precision=precision, **how)
        self.walk = WALKS[type(model)](model)

    def backward(self, now: Parts, batch: Batch) -> Loss:
        """Add the gradient of one micro-batch to the gradients, without autograd; returns its summed loss."""
        return self.walk(moved(batch, self.device))

"""Truncated backpropagation through time: the state goes on from step to step, the gradient does not.

Williams and Peng 1990. A row of T tokens is read with the state that the row before it in the text has left behind,
so that the model learns to use what lies further back than T, although no gradient reaches there. The state is
detached at the border, and forgotten in rows that do not continue (see `datasets/lanes.py`). It is a part of what a
resumed run needs.
"""

from minillm.datasets.lanes import ContiguousBatch
from minillm.models.rnn import ReadingOn, RNNState
from minillm.objectives.loss import Loss
from minillm.training.step import GradientStep, Parts


class CarriedStep(GradientStep):
    """A `GradientStep` on a model with an `RNNState`, over batches that continue."""

    def __init__(self, *parts, **how):  # type: ignore[no-untyped-def]
        """Parameters as `GradientStep`. The objective gets the model with its state filled in."""
        super().__init__(*parts, **how)
        self.states: list[RNNState] = []  # one a micro-batch, in order

    def __call__(self, batch: ContiguousBatch) -> dict[str, float]:
        """Update once. Raises Diverged before any weight has changed."""
        self._waiting, self.states = iter(self.states), []
        return super().__call__(batch)

    def loss(self, now: Parts, batch: ContiguousBatch) -> Loss:
        """Compute the objective after the state that the step before has left."""
        state = next(self._waiting, None) or self.working.start(len(batch.tokens))
        state.forget(~batch.continues)
        loss = now.objective(ReadingOn(now.model, state), batch)
        state.detach()
        self.states.append(state)
        return loss

    def state_dict(self) -> dict:
        """The state that a resumed run needs, the state that is carried included."""
        carried = [
            {"layers": [list(layer) for layer in state.layers], "lengths": state.lengths} for state in self.states
        ]
        return super().state_dict() | {"carried": carried}

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state)
        self.states = [
            RNNState(
                [tuple(part.to(self.device) for part in layer) for layer in saved["layers"]],
                saved["lengths"].to(self.device),
            )
            for saved in state["carried"]
        ]

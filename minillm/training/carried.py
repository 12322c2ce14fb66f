"""Truncated backpropagation through time (Williams and Peng 1990): steps pass on the state, but no gradient.

A row of T tokens starts from the state after the row that precedes it in the text. So the model can learn to use
information from more than T tokens back, although no gradient reaches that far. Between steps the state is detached; in
rows that do not continue a text it is reset (see `datasets/lanes.py`). It is saved with the run, for resumption.
"""

from minillm.datasets.lanes import ContiguousBatch
from minillm.models.rnn import ReadingOn, RNNState
from minillm.objectives.loss import Loss
from minillm.training.step import GradientStep, Parts


class CarriedStep(GradientStep):
    """A `GradientStep` on a model with an `RNNState`; rows of a batch continue those of the batch before."""

    def __init__(self, *parts, **how):  # type: ignore[no-untyped-def]
        """Parameters as in `GradientStep`. The objective receives the model together with its state (`ReadingOn`)."""
        super().__init__(*parts, **how)
        self.states: list[RNNState] = []  # one per micro-batch, in order

    def __call__(self, batch: ContiguousBatch) -> dict[str, float]:
        """Update once. Raises Diverged before any weight has changed."""
        self._waiting, self.states = iter(self.states), []
        return super().__call__(batch)

    def loss(self, now: Parts, batch: ContiguousBatch) -> Loss:
        """Compute the objective, starting from the state after the previous step."""
        state = next(self._waiting, None) or self.working.start(len(batch.tokens))
        state.forget(~batch.continues)
        loss = now.objective(ReadingOn(now.model, state), batch)
        state.detach()
        self.states.append(state)
        return loss

    def state_dict(self) -> dict:
        """The state that a resumed run needs, including the carried recurrent state."""
        carried = [
            {"layers": [list(layer) for layer in state.layers], "lengths": state.lengths} for state in self.states
        ]
        return super().state_dict() | {"carried": carried}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.states = [
            RNNState(
                [tuple(part.to(self.device) for part in layer) for layer in saved["layers"]],
                saved["lengths"].to(self.device),
            )
            for saved in state["carried"]
        ]

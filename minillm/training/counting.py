"""Training by counting: the step of an n-gram model, which has no weights.

The logged loss is that of a few rows of the batch, computed before the batch is counted. So the model is always
evaluated on text that it has not counted yet (prequential evaluation, Dawid 1984).
"""

import torch

from minillm.datasets.batch import Batch, moved
from minillm.models.language_model import device_of
from minillm.models.ngram import Ngram
from minillm.objectives.loss import Objective

ROWS = 8  # rows of a batch that the logged loss is computed on


class CountingStep:
    """A `Step` that counts the n-grams of a batch."""

    def __init__(self, model: Ngram, objective: Objective):
        self.model, self.objective = model, objective
        self.n_steps = 0

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, float]:
        """Compute the loss, then count the n-grams of the batch."""
        batch = moved(batch, device_of(self.model))
        loss = self.objective(self.model, Batch(*(part[:ROWS] for part in batch)))
        n_tokens = self.model.count(batch)
        self.n_steps += 1
        return {"loss": float(loss.total) / max(int(loss.count), 1), "tokens": n_tokens}

    def state_dict(self) -> dict:
        """The state that a resumed run needs."""
        return {"model": self.model.state_dict(), "n_steps": self.n_steps}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.n_steps = state["n_steps"]

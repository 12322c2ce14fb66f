"""The gradient step: one optimizer update with the clipped gradient of the mean loss of a batch.

    zero the gradients;   forward and backward of each micro-batch;   divide once;   clip;   step

Losses are sums, and the division by the number of counted targets comes at the end. So the gradient does not depend on
how the batch is cut into micro-batches. The logged norm is that of the gradient before clipping. Read `gradients`,
`precision` and `optim` for the parts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.profiler import record_function

from minillm.datasets.batch import Batch, moved
from minillm.objectives.loss import Loss, Objective, mean_metrics
from minillm.training.balance import Balance, watching
from minillm.training.checkpoint import load_trained_state, trained_state
from minillm.training.gradients import Gradients
from minillm.training.optim import Optimizer
from minillm.training.precision import FullPrecision, WorkingCopy

OPTIMIZER = "optimizer"
Step = Callable[[Batch], dict[str, float]]  # one optimizer update, or one round of counting; returns metrics to log


class Diverged(FloatingPointError):
    """Raised if the loss or its gradient is not finite; the weights are those before the step."""


class Parts(NamedTuple):
    """The parts of a gradient step: the plain ones, or their fast twins."""

    model: nn.Module  # computes logits
    objective: Objective
    copy: FullPrecision | WorkingCopy
    gradients: Gradients
    optimizer: Optimizer


class GradientStep:
    """A `Step` by backpropagation."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        rate: Callable[[int], float],
        *,
        lr: float,
        grad_clip: float = 0.0,
        n_micro_batches: int = 1,
        precision: str = "fp32",
    ):
        """`rate(step)` is the fraction of the peak rate `lr`; grad_clip 0 clips nothing; precision "fp32" or "bf16"."""
        self.model, self.objective, self.optimizer, self.rate, self.lr = model, objective, optimizer, rate, lr
        self.grad_clip, self.n_micro_batches = grad_clip, n_micro_batches
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.copy, self.gradients = (
            (WorkingCopy if precision == "bf16" else FullPrecision)(model),
            Gradients(self.parameters),
        )
        self.working = self.copy.model
        self.balance = Balance(model, self.working)
        self.choose: Callable[[Parts], Parts] = plain  # called before each step; `fast_step` sets another
        self.n_steps = 0

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Update once. Raises Diverged before any weight has changed."""
        self.working.train()
        now = self.parts()
        self.balance.begin()
        now.gradients.zero()
        now.copy.read()
        losses = [self.backward(now, part) for part in self.micro_batches(batch)]
        total, count = float(sum(loss.total for loss in losses)), int(sum(loss.count for loss in losses))
        now.gradients.divide(count)
        norm = now.gradients.clip(self.grad_clip)
        loss, fraction = total / max(count, 1), self.rate(self.n_steps)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {self.n_steps + 1}: loss {loss}, gradient norm {norm}, learning rate {self.lr * fraction:.3g}: "
                "expected finite numbers; lower optim.lr and optim.muon_lr, or raise schedule.warmup_steps"
            )
        with record_function(OPTIMIZER):  # a name for profilers
            now.optimizer.step(fraction)
        self.n_steps += 1
        metrics = {"loss": loss, "grad_norm": norm, "lr": self.lr * fraction, "tokens": count}
        return metrics | mean_metrics(losses) | self.balance.finish()

    def parts(self) -> Parts:
        """The parts for the next step: the plain ones, or their fast twins."""
        return self.choose(Parts(self.working, self.objective, self.copy, self.gradients, self.optimizer))

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """Cut a batch into `n_micro_batches` parts, by rows."""
        return [type(batch)(*part) for part in zip(*(x.chunk(self.n_micro_batches) for x in batch), strict=True)]

    def backward(self, now: Parts, batch: Batch) -> Loss:
        """Add the gradient of the summed loss of one micro-batch to the gradients; returns that loss."""
        with watching(self.balance.routers) as seen:
            loss = self.loss(now, moved(batch, self.device))
        (loss.total + loss.count * self.balance.loss(seen)).backward()
        now.copy.give()
        return Loss(loss.total.detach(), loss.count, loss.metrics)

    def loss(self, now: Parts, batch: Batch) -> Loss:
        """Compute the objective."""
        return now.objective(now.model, batch)

    def state_dict(self) -> dict:
        """The state that a resumed run needs: trained weights, optimizer, and random state (for dropout)."""
        return {
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "n_steps": self.n_steps,
            "random": torch.get_rng_state(),
            **({"cuda_random": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        load_trained_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps = state["n_steps"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def plain(parts: Parts) -> Parts:
    """Return the parts unchanged, without fast twins."""
    return parts

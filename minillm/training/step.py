"""One optimizer update: gradients of the summed loss over all micro-batches, divided once by all that was counted.

Sums are accumulated and divided at the end, so the gradient is the same however the batch is cut. The gradient is one long vector, of
which each parameter's `.grad` is a part: to divide and to clip it (Pascanu et al. 2013) takes one pass, not one for every parameter.
The norm in the log is that of the gradient of the mean loss, before it is clipped.

In bf16 a working copy of the model, in bfloat16 through and through, computes loss and gradients; the weights themselves stay in
float32 and collect updates that bfloat16 would round away (Micikevicius et al. 2018). Norms and losses promote to float32 by themselves.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import record_function

from minillm.datasets.batch import Batch, moved
from minillm.objectives.loss import Loss, Objective, mean_metrics
from minillm.training.balance import Balance, watching
from minillm.training.checkpoint import load_trained_state, trained_state
from minillm.training.compiled import try_compiled
from minillm.training.optim import Optimizer

OPTIMIZER = "optimizer"
Step = Callable[[Batch], dict[str, float]]  # one optimizer update, or one round of counting; what it returns is logged


class Diverged(FloatingPointError):
    """The loss or its gradient is no longer a number; the weights are those before the step."""


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
        """`rate(step)` is the fraction of the peak learning rate `lr`; grad_clip 0 clips nothing; precision "fp32" or "bf16"."""
        self.model, self.objective, self.optimizer, self.rate, self.lr = model, objective, optimizer, rate, lr
        self.grad_clip, self.n_micro_batches = grad_clip, n_micro_batches
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        sizes = [p.numel() for p in self.parameters]
        self.gradient = self.parameters[0].new_zeros(sum(sizes))
        self.gradients = [part.view_as(p) for part, p in zip(self.gradient.split(sizes), self.parameters, strict=True)]
        self.working = copy.deepcopy(model).bfloat16() if precision == "bf16" else model
        self.computing = self.working  # the same weights, compiled or not
        self.worked = [p for p in self.working.parameters() if p.requires_grad]
        self.balance = Balance(model, self.working)
        self.n_steps = 0

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Update once. Raises Diverged before any weight has changed."""
        total, count, metrics = self._backward(batch)
        count_or_1 = max(count, 1)
        # subtle: part by part, since torch adds squares up in float32, and of a hundred million in a row loses a percent
        norms = torch.stack(torch._foreach_norm(self.gradients))
        loss, norm = total / count_or_1, float(torch.linalg.vector_norm(norms)) / count_or_1
        fraction = self.rate(self.n_steps)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"step {self.n_steps + 1}: loss {loss}, gradient norm {norm}, learning rate {self.lr * fraction:.3g}: "
                "expected finite numbers; lower optim.lr and optim.muon_lr, or raise schedule.warmup_steps"
            )
        clipped = self.grad_clip / norm if self.grad_clip and norm > self.grad_clip else 1.0
        self.gradient.mul_(clipped / count_or_1)
        with record_function(OPTIMIZER):  # a name for profilers
            self.optimizer.step(fraction)
        self.n_steps += 1
        return {
            "loss": loss,
            "grad_norm": norm,
            "lr": self.lr * fraction,
            "tokens": count,
            **metrics,
            **self.balance.finish(),
        }

    def _backward(self, batch: Batch) -> tuple[float, int, dict[str, float]]:
        """Fill .grad of every parameter with the gradient of the summed loss, which is returned with its count and the metrics."""
        losses = []
        self.balance.begin()
        self.gradient.zero_()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        if self.working is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self.worked, self.parameters)
        self.working.train()
        for parts in zip(*(part.chunk(self.n_micro_batches) for part in batch), strict=True):
            loss = self._micro_backward(type(batch)(*parts))
            losses.append(Loss(loss.total.detach(), loss.count, loss.metrics))
        return float(sum(loss.total for loss in losses)), int(sum(loss.count for loss in losses)), mean_metrics(losses)

    def _micro_backward(self, batch: Batch) -> Loss:
        """Add the gradient of one micro-batch to .grad."""
        with watching(self.balance.routers) as seen:
            loss = self.objective(self.computing, moved(batch, self.device))
        (loss.total + loss.count * self.balance.loss(seen)).backward()
        if self.working is not self.model:
            mine = [
                (gradient, p.grad)
                for gradient, p in zip(self.gradients, self.worked, strict=True)
                if p.grad is not None
            ]
            torch._foreach_add_(*map(list, zip(*mine, strict=True)))
            self.working.zero_grad()
        return loss

    def compile(self, batch: Batch) -> str:
        """Compute forward and backward by compiled code from now on, if it can do this batch; the line that says so, or why not."""
        first = moved(type(batch)(*(part.chunk(self.n_micro_batches)[0] for part in batch)), self.device)
        self.computing, said = try_compiled(
            self.working.train(), lambda model: self.objective(model, first).total.backward()
        )
        self.working.zero_grad()
        return said

    def state_dict(self) -> dict:
        """All that a resumed run needs, dropout's randomness included; of the model, what is not frozen."""
        return {
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "n_steps": self.n_steps,
            "random": torch.get_rng_state(),
            **({"cuda_random": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        load_trained_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps = state["n_steps"]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "cuda_random" in state:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)

"""One optimizer update: gradients of the summed loss over all micro-batches, divided once by all that was counted.

Sums are accumulated and divided at the end, so the gradient is the same however the batch is cut. The gradient is clipped as one
long vector (Pascanu et al. 2013), after the division, so that the norm in the log is that of the mean loss.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from minillm.datasets.batch import IGNORE, Batch
from minillm.objectives.loss import Objective
from minillm.training.optim import Optimizer

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
        self.grad_clip, self.n_micro_batches, self.precision = grad_clip, n_micro_batches, precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.n_steps = 0

    def __call__(self, batch: Batch) -> dict[str, float]:
        """Update once. Raises Diverged before any weight has changed."""
        device = self.parameters[0].device
        self.model.train()
        total, count = 0.0, int((batch.targets != IGNORE).sum())
        for tokens, targets in zip(*(part.chunk(self.n_micro_batches) for part in batch), strict=True):
            micro_batch = Batch(tokens.to(device, non_blocking=True), targets.to(device, non_blocking=True))
            with mixed(self.precision, device):
                loss = self.objective(self.model, micro_batch)
            loss.total.backward()
            total += loss.total.detach()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_div_(gradients, max(count, 1))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        metrics = {"loss": float(total) / max(count, 1), "grad_norm": float(norm), "lr": self.lr * self.rate(self.n_steps), "tokens": count}
        if not all(abs(value) < float("inf") for value in (metrics["loss"], metrics["grad_norm"])):
            raise Diverged(
                f"step {self.n_steps + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}, "
                f"learning rate {metrics['lr']:.3g}: expected finite numbers; lower optim.lr and optim.muon_lr, or raise schedule.warmup_steps"
            )
        if self.grad_clip and metrics["grad_norm"] > self.grad_clip:
            torch._foreach_mul_(gradients, self.grad_clip / metrics["grad_norm"])
        self.optimizer.step(self.rate(self.n_steps))
        self.model.zero_grad(set_to_none=False)
        self.n_steps += 1
        return metrics

    def state_dict(self) -> dict:
        """All that a resumed run needs, dropout's randomness included."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_steps": self.n_steps,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_steps = state["n_steps"]
        torch.set_rng_state(state["random"])


def mixed(precision: str, device: torch.device) -> AbstractContextManager:
    """bf16: matrix products in bfloat16, weights and sums in float32 (Micikevicius et al. 2018); fp32: nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()

"""Load balancing of experts: router losses, an update of the routers' biases, and figures for the log.

Hooks record the routers' decisions while the objective runs, so models neither store nor return them. The router losses
(see `layers/moe.py`) are means over the tokens of a micro-batch, added up over routers. Multiplied by the objective's
count they become sums like its own, and the step divides both once. So the z-loss does not depend on how a batch is
cut, if the parts count in proportion to their tokens. The balance loss is a product of two means, so it is computed for
each micro-batch by itself. Biases change once per step, by the counts of the whole batch.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from minillm.layers.moe import Router, Routing, balance_loss, z_loss


def _remember(to: list[Routing], router: Router, x: tuple, routing: Routing) -> None:
    to.append(routing)


def routers_of(model: nn.Module) -> list[Router]:
    """The routers of a model, one per layer with experts, in order; none in a dense model."""
    return [module for module in model.modules() if isinstance(module, Router)]


@contextmanager
def watching(routers: Sequence[Router]) -> Iterator[list[list[Routing]]]:
    """A context that records decisions: for each router, a list of all its `Routing`s while the context is open."""
    seen: list[list[Routing]] = [[] for _ in routers]
    hooks = [router.register_forward_hook(partial(_remember, to)) for router, to in zip(routers, seen, strict=True)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Balance:
    """Balances the routers of a model during training, one step at a time."""

    def __init__(self, model: nn.Module, working: nn.Module):
        """`working` is the model that computes, `model` the one that is saved; they may be the same object."""
        self.routers = routers_of(working)
        for router, kept in zip(self.routers, routers_of(model), strict=True):
            router.bias = kept.bias  # subtle: both share one tensor, so it is not rounded and checkpoints contain it
        self.begin()

    def begin(self) -> None:
        """Begin a step: clear what the previous step recorded."""
        self._counts: list[Tensor] = []  # (L, E) of each micro-batch
        self._losses: list[Tensor] = []  # balance loss of each micro-batch, mean over layers
        self._n_dropped = 0

    def loss(self, seen: list[list[Routing]]) -> Tensor | float:
        """The weighted router losses of a micro-batch, to be added to its mean loss; 0 in a dense model."""
        if not any(seen):
            return 0.0
        probs, logits = ([torch.cat([getattr(r, part) for r in rs]) for rs in seen] for part in ("probs", "logits"))
        counts = [torch.stack([r.counts for r in rs]).sum(0) for rs in seen]
        losses = [balance_loss(p, n) for p, n in zip(probs, counts, strict=True)]
        self._counts.append(torch.stack(counts))
        self._losses.append(torch.stack(losses).mean().detach())
        self._n_dropped += sum(r.n_dropped for rs in seen for r in rs)
        parts = zip(self.routers, losses, logits, strict=True)
        return torch.stack([router.balance_loss * loss + router.z_loss * z_loss(x) for router, loss, x in parts]).sum()

    @torch.no_grad()
    def finish(self) -> dict[str, float]:
        """Update the biases; returns metrics of the load, {} for a dense model."""
        if not self._counts:
            return {}
        counts = torch.stack(self._counts).sum(0)  # (L, E)
        for router, of_layer in zip(self.routers, counts.float(), strict=True):
            router.bias += router.balance_rate * (of_layer.mean() - of_layer).sign()
        balance = {
            "balance_loss": float(torch.stack(self._losses).mean()),
            "dropped": self._n_dropped / max(int(counts.sum()), 1),
        }
        return load_metrics(counts) | balance


def load_metrics(counts: Tensor) -> dict[str, float]:
    """Measure how evenly choices are spread: counts by layer and expert (L, E) -> metrics, means over layers.

    load_max, load_min: the largest and the smallest load of an expert, as multiples of an even share. load_entropy: the
    entropy of the loads divided by ln E; 1 if even, 0 if all choices fall on one expert.
    """
    n_experts, shares = counts.shape[1], counts / counts.sum(1, keepdim=True).clamp(min=1)  # (L, E)
    nats = -torch.special.xlogy(shares, shares).sum(1)
    return {
        "load_max": n_experts * float(shares.amax(1).mean()),
        "load_min": n_experts * float(shares.amin(1).mean()),
        "load_entropy": float(nats.mean()) / math.log(max(n_experts, 2)),
    }

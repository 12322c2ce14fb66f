"""Keeping experts busy: what routers decide during a step becomes a loss, a nudge of their biases, and figures for the log.

Routers are watched by hooks while the objective runs, so nothing is left on a module and no model has to pass anything
on. Their losses (see `layers/moe.py`) are means over the tokens of a micro-batch, added up over routers; times what the
objective counted they become sums like its own, and the step divides both once. So the z-loss is the same however a
batch is cut into parts that count in proportion to their tokens. The balance loss is a product of two means, so each
part can only be balanced for itself. Biases are nudged once a step, by the counts of the whole batch.
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
    """One a layer, in order; none in a dense model."""
    return [module for module in model.modules() if isinstance(module, Router)]


@contextmanager
def watching(routers: Sequence[Router]) -> Iterator[list[list[Routing]]]:
    """For each router a list, to which every decision that it makes while this is open is added."""
    seen: list[list[Routing]] = [[] for _ in routers]
    hooks = [router.register_forward_hook(partial(_remember, to)) for router, to in zip(routers, seen, strict=True)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Balance:
    """The routers of a model that is being trained, over one step at a time."""

    def __init__(self, model: nn.Module, working: nn.Module):
        """`working` computes, `model` is what is saved; they may be one."""
        self.routers = routers_of(working)
        for router, kept in zip(self.routers, routers_of(model), strict=True):
            router.bias = kept.bias  # subtle: one tensor for both, so that nothing rounds it and checkpoints have it
        self.begin()

    def begin(self) -> None:
        """Forget the step before."""
        self._counts: list[Tensor] = []  # (L, E) of each micro-batch
        self._losses: list[Tensor] = []  # the balance loss of each, mean over layers
        self._n_dropped = 0

    def loss(self, seen: list[list[Routing]]) -> Tensor | float:
        """The routers' share of the mean loss of a micro-batch; 0 in a dense model."""
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
        """Nudge the biases; how the load was shared, or nothing in a dense model."""
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
    """Choices by layer and expert (L, E) -> how evenly they fell, mean over layers.

    load_max and load_min: the busiest and the idlest expert's load, in even shares; load_entropy: over ln E, 1 is even,
    0 is all to one.
    """
    n_experts, shares = counts.shape[1], counts / counts.sum(1, keepdim=True).clamp(min=1)  # (L, E)
    nats = -torch.special.xlogy(shares, shares).sum(1)
    return {
        "load_max": n_experts * float(shares.amax(1).mean()),
        "load_min": n_experts * float(shares.amin(1).mean()),
        "load_entropy": float(nats.mean()) / math.log(max(n_experts, 2)),
    }

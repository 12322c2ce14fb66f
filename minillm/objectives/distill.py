"""Distillation: the student learns the teacher's distributions over the next token (Hinton et al. 2015).

    forward          sum p ln(p / q)                        q covers all that p may write
    reverse          sum q ln(q / p)                        q writes only what p would          Gu et al. 2024 (MiniLLM)
    jensen_shannon   beta KL(p | m) + (1 - beta) KL(q | m)   m = beta p + (1 - beta) q          Agarwal et al. 2024

p is the teacher, q the student, both with logits divided by the temperature T. The divergence is multiplied by T^2,
since its gradient shrinks with 1 / T^2 (Hinton et al. 2015); then one learning rate suits every T. Jensen-Shannon
vanishes as beta goes to 0 or 1; divided by beta or by 1 - beta, it tends there to forward or to reverse KL. With
`top_k`, p keeps its k most probable tokens, and all others are one bucket of p and of q. So both are distributions, and
the divergence is never negative. Read before: `lessons/distillation.py`, `cross_entropy`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.constants import IGNORE
from minillm.datasets.batch import Batch
from minillm.models.language_model import LanguageModel
from minillm.objectives.cross_entropy import cross_entropy, log_probabilities
from minillm.objectives.loss import Loss


def forward_kl(p: Tensor, q: Tensor, beta: float = 0.0) -> Tensor:
    """KL(p | q) of log-probabilities (..., N) -> nats (...); `beta` has no effect."""
    return (p.exp() * (p - q)).masked_fill(p == -torch.inf, 0.0).sum(-1)  # 0 ln 0 is 0


def reverse_kl(p: Tensor, q: Tensor, beta: float = 1.0) -> Tensor:
    """KL(q | p) of log-probabilities (..., N) -> nats (...); `beta` has no effect."""
    return forward_kl(q, p)


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """The generalized Jensen-Shannon divergence of log-probabilities (..., N) -> nats (...); 0 < beta < 1."""
    shares = torch.tensor([beta, 1 - beta], dtype=p.dtype, device=p.device).log()
    m = torch.logaddexp(shares[0] + p, shares[1] + q)
    return beta * forward_kl(p, m) + (1 - beta) * forward_kl(q, m)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


class SoftTargets(NamedTuple):
    """Soft targets: the distributions of a teacher over the next token (Hinton et al. 2015)."""

    logprobs: Tensor  # (..., V); or (..., k + 1): its k most probable tokens, then all others together
    ids: Tensor | None = None  # (..., k) long: those tokens; None: the whole vocabulary


class SoftTargetBatch(NamedTuple):
    """A batch with stored soft targets for each token."""

    tokens: Tensor  # (B, T) as in `Batch`
    targets: Tensor
    ids: Tensor  # (B, T, k)
    logprobs: Tensor  # (B, T, k + 1)


@dataclass(frozen=True)
class Matching:
    """The comparison of a student's distributions with soft targets: divergence, temperature and weight."""

    divergence: str = "forward"  # a key of DIVERGENCES
    beta: float = 0.5  # of jensen_shannon
    temperature: float = 1.0
    top_k: int = 0  # tokens of the teacher that are told apart; 0: all
    weight: float = 1.0  # of the divergence; the rest is the weight of the data's cross-entropy

    def soften(self, logits: Tensor) -> SoftTargets:
        """The soft targets of a teacher with these logits (..., V), at the temperature."""
        logprobs = softened(logits, self.temperature)
        if not 0 < self.top_k < logits.shape[-1]:  # with all tokens told apart, no bucket is left
            return SoftTargets(logprobs)
        ids = logprobs.topk(self.top_k).indices
        return SoftTargets(with_bucket(logprobs, ids), ids)

    def nats(self, soft: SoftTargets, logits: Tensor) -> Tensor:
        """The divergence of a student with these logits (..., V) from the teacher, (...), times T^2."""
        logprobs = softened(logits, self.temperature)
        if soft.ids is not None:
            logprobs = with_bucket(logprobs, soft.ids)
        return self.temperature**2 * DIVERGENCES[self.divergence](soft.logprobs.to(logprobs.dtype), logprobs, self.beta)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (..., V) of logits divided by the temperature, in float32 or wider."""
    return log_probabilities(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature)


def with_bucket(logprobs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (..., k + 1) of the tokens `ids` (..., k), and of all others together, from (..., V); k < V.

    >>> with_bucket(torch.tensor([0.5, 0.2, 0.3]).log(), torch.tensor([2])).exp()
    tensor([0.3000, 0.7000])
    """
    others = logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, ids), others], -1)


def distill(model: nn.Module, batch: Batch, teacher: LanguageModel, matching: Matching) -> Loss:
    """Sum the divergence from the teacher, which reads the same tokens, over all counted targets."""
    with torch.no_grad():
        theirs, _ = teacher(batch.tokens)  # (B, T, V), or more where the teacher pads its vocabulary
    ours, _ = model(batch.tokens)  # (B, T, V)
    counted = batch.targets != IGNORE
    soft = matching.soften(theirs[counted][:, : ours.shape[-1]])  # (N, ...)
    return _mixed(ours[counted], batch.targets[counted], soft, matching)


def distill_stored(model: nn.Module, batch: SoftTargetBatch, matching: Matching) -> Loss:
    """`distill` with the teacher's distributions in the batch."""
    ours, _ = model(batch.tokens)
    counted = batch.targets != IGNORE
    soft = SoftTargets(batch.logprobs[counted], batch.ids[counted])
    return _mixed(ours[counted], batch.targets[counted], soft, matching)


def _mixed(logits: Tensor, targets: Tensor, soft: SoftTargets, matching: Matching) -> Loss:
    """The weighted sum of divergence and cross-entropy over N places: logits (N, V), targets (N,)."""
    divergence, (surprise, count) = matching.nats(soft, logits).sum(), cross_entropy(logits, targets)
    total = matching.weight * divergence + (1 - matching.weight) * surprise
    metrics = {"divergence": (divergence.detach(), count), "cross_entropy": (surprise.detach(), count)}
    return Loss(total, count, metrics)

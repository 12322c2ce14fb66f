"""Distillation: a student learns the distributions of a trained teacher, not only the tokens of a text.

    forward KL(p | q) = sum p ln(p / q)        reverse KL(q | p)        p teacher, q student

A text names one token a place; a teacher says how probable every token is there, which is far more. A temperature T
divides both logits and shows the small probabilities. The gradient shrinks with 1 / T^2, so the loss is multiplied by
T^2. Forward KL asks q to cover all that p may write, reverse KL asks q to write only what p would. Jensen-Shannon lies
between them: beta KL(p | m) + (1 - beta) KL(q | m) with m = beta p + (1 - beta) q. It vanishes at both ends; divided by
beta it tends to forward KL, and divided by 1 - beta to reverse KL. If only the k most probable tokens of the teacher
are kept, the others must stay as one bucket, or the sum may be negative.

Paper: Hinton, Vinyals and Dean 2015; Agarwal et al. 2024 (Jensen-Shannon, on-policy).
Read before: cross_entropy.
Then read: minillm/objectives/distill.py, minillm/tasks/distill.py, minillm/training/on_policy.py
Try: python train.py --config distill-tiny

Change it:
    - return temperature**2 * kl(p, q)
    + return kl(p, q)
Shown: T = 32: gradient 0.0027
"""

import torch
from torch import Tensor

from minillm.lessons.cross_entropy import softmax


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Distributions (..., V) -> sum p ln(p / q), in nats; 0 only where they are equal."""
    return (p * (p / q).log()).sum(dim=-1)


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """Distributions (..., V) -> their mean divergence from the mixture m."""
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Logits (..., V) of both -> forward KL of the softened distributions, times T^2."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * kl(p, q)


def with_bucket(p: Tensor, kept: Tensor) -> Tensor:
    """Distributions (..., V) and ids (k,) -> the probabilities of those tokens and of all others together."""
    return torch.cat([p[..., kept], 1 - p[..., kept].sum(dim=-1, keepdim=True)], dim=-1)


def fit(teacher: Tensor, reverse: bool) -> Tensor:
    """Train a student with one number c, and a peak there: logits -2 (i - c)^2. It cannot have two peaks."""
    c = torch.tensor(1.1, requires_grad=True)
    for _ in range(300):
        student = softmax(-2 * (torch.arange(3) - c) ** 2)
        loss = kl(student, teacher) if reverse else kl(teacher, student)
        [gradient] = torch.autograd.grad(loss, [c])
        c.data -= 0.05 * gradient
    return softmax(-2 * (torch.arange(3) - c.detach()) ** 2)


def told(p: Tensor) -> str:
    """The probabilities as text."""
    return "(" + " ".join(f"{x:.2f}" for x in p) + ")"


def main() -> None:
    """A vocabulary of three tokens: the divergences by hand, temperature, a student that is too small, top-k."""
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.75, 0.24, 0.01])
    print(f"teacher p {told(p)}   student q {told(q)}")
    print(f"forward KL  0.7 ln(0.7/0.75) + 0.2 ln(0.2/0.24) + 0.1 ln(0.1/0.01) = {kl(p, q):.4f}")
    print(f"reverse KL  {kl(q, p):.4f}   KL(p | p) {kl(p, p):.4f}")
    for beta in (0.001, 0.5, 0.999):
        js = jensen_shannon(p.double(), q.double(), beta)
        print(f"beta {beta:5}  JS {js:.5f}   JS / beta {js / beta:8.4f}   JS / (1 - beta) {js / (1 - beta):8.4f}")

    print("\na temperature shows what the teacher thinks of the other tokens")
    teacher, student = torch.tensor([8.0, 4.0, 0.0]), torch.zeros(3, requires_grad=True)
    for temperature in (1, 4, 32):
        [gradient] = torch.autograd.grad(distillation(teacher, student, temperature), [student])
        p_soft = told(softmax(teacher / temperature))
        print(f"p at T = {temperature}: {p_soft}\n  T = {temperature}: gradient {gradient.abs().sum():.4f}")

    print("\na teacher with two peaks, and students that can have only one")
    two_peaks = torch.tensor([0.48, 0.04, 0.48])
    print(f"teacher {told(two_peaks)}")
    print(f"forward {told(fit(two_peaks, reverse=False))}  between the peaks: it covers both")
    print(f"reverse {told(fit(two_peaks, reverse=True))}  on one peak: it writes nothing that the teacher would not")

    print("\nonly the most probable token of the teacher is kept")
    kept = torch.tensor([0])
    print(f"alone, the sum is negative: {kl(p[kept], q[kept]):.4f}")
    print(f"with a bucket for the rest: {kl(with_bucket(p, kept), with_bucket(q, kept)):.4f}, at most {kl(p, q):.4f}")


if __name__ == "__main__":
    main()

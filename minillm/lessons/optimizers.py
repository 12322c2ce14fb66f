"""Optimizer: the rule that turns the gradient g of the loss into a step of the parameters p.

    SGD     p = p - lr g
    AdamW   m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
            p = p - lr decay p - lr m' / (sqrt(v') + eps)        m' = m / (1 - beta1^t)        v' = v / (1 - beta2^t)
    Muon    m = momentum m + (1 - momentum) g
            p = p - lr decay p - lr sqrt(max(1, rows / columns)) orthogonalize((1 - momentum) g + momentum m)

SGD takes steps in proportion to the slope, so the steepest direction limits lr, and progress in flat ones is slow.
AdamW divides by the running size of the gradient, so each parameter moves by about lr. Muon sets all singular values of
a matrix's step to about 1, so the step is equally large in every direction.

Paper: Robbins and Monro 1951 (SGD); Kingma and Ba 2015, Loshchilov and Hutter 2019 (AdamW); Jordan et al. 2024 (Muon).
Read before: backpropagation.
Then read: minillm/training/optim.py
Try: python train.py --config gpt-tiny --optim.kind adamw

Change it:
    - SGD_LR = 0.018
    + SGD_LR = 0.021
Shown: loss 9.5e+09
"""

import math

import torch
from torch import Tensor

SGD_LR = 0.018


def sgd(p: Tensor, g: Tensor, lr: float) -> Tensor:
    """Stochastic gradient descent: the parameters after one step."""
    return p - lr * g


def adamw(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, beta1: float, beta2: float, eps: float, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Step t = 1, 2, ...: the parameters, and the means m of g and v of g^2, which start at 0."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)  # means of t steps, without the zeros at the start
    return p - lr * decay * p - lr * m_hat / (v_hat.sqrt() + eps), m, v


def orthogonalize(x: Tensor) -> Tensor:
    """Newton-Schulz iteration: a matrix with the same singular vectors and singular values near 1."""
    x = x / (x.norm() + 1e-7)  # no singular value is above 1
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def muon(p: Tensor, g: Tensor, m: Tensor, lr: float, momentum: float, decay: float) -> tuple[Tensor, Tensor]:
    """The matrix p (R, C) after one step, and the mean m of its gradient, which starts at 0."""
    m = momentum * m + (1 - momentum) * g
    ahead = (1 - momentum) * g + momentum * m  # Nesterov momentum: m after one more step with the same gradient
    return p - lr * decay * p - lr * math.sqrt(max(1, p.shape[0] / p.shape[1])) * orthogonalize(ahead), m


def main() -> None:
    """Each optimizer minimizes a function that is a hundred times steeper in one direction than in the other."""
    print("p = [[a, 0], [0, b]], from a = b = 1    loss = (100 a^2 + b^2) / 2    g = [[100 a, 0], [0, b]]\n")
    for name in ("SGD", "AdamW", "Muon"):
        p, m, v = torch.eye(2), torch.zeros(2, 2), torch.zeros(2, 2)
        for t in range(1, 101):
            g = torch.tensor([[100.0], [1.0]]) * p
            if name == "SGD":
                p = sgd(p, g, SGD_LR)
            elif name == "AdamW":
                p, m, v = adamw(p, g, m, v, t, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.0)
            else:
                p, m = muon(p, g, m, lr=0.1, momentum=0.9, decay=0.0)
            if t in (1, 2, 10, 100):
                a, b = p.diagonal().tolist()
                print(f"{name:<6} after {t:>3}   a {a:9.4f}   b {b:9.4f}   loss {(100 * a * a + b * b) / 2:.2g}")
    print("\nby hand: each step of SGD multiplies a by 1 - 0.018 * 100 = -0.8 and b by 1 - 0.018 * 1 = 0.982.")
    print("AdamW's first step is lr * g / |g| = 0.1 for both. AdamW and Muon move a and b alike, steep or not.")

    matrix = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    values = torch.linalg.svdvals(orthogonalize(matrix))
    print(f"orthogonalize: singular values 3 and 0.1 become {values[0]:.2f} and {values[1]:.2f}")


if __name__ == "__main__":
    main()

"""Backpropagation: the derivative of the loss with respect to every weight, by the chain rule from the loss backwards.

    z = W x        p = softmax(z)        L = -ln p[target]
    dL/dz_i = sum_j dL/dp_j dp_j/dz_i        dL/dW_ij = dL/dz_i x_j        dL/dx_j = sum_i dL/dz_i W_ij

One backward pass gives all derivatives for about twice the cost of the forward pass. x may be the output of a layer
below, whose backward pass starts from dL/dx; so a deep network is differentiated layer by layer. Numerical differences
check the result without any calculus, at the cost of two forward passes for every weight.

Paper: Rumelhart, Hinton and Williams 1986, "Learning Representations by Back-propagating Errors".
Read before: cross_entropy.
Then read: minillm/backprop/textbook.py, minillm/backprop/linear.py
Try: python -m minillm.backprop

Change it:
    - dp_dz = torch.diag(p) - torch.outer(p, p)
    + dp_dz = torch.diag(p)
Shown: all agree to 8 digits: False
"""

import torch
from torch import Tensor

from minillm.lessons.cross_entropy import softmax


def forward(W: Tensor, x: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (N, M), inputs (M,) -> z (N,), probabilities p (N,), and the loss."""
    z = W @ x
    p = softmax(z)
    return z, p, -p[target].log()


def backward(W: Tensor, x: Tensor, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives dL/dz (N,), dL/dW (N, M) and dL/dx (M,)."""
    _, p, _ = forward(W, x, target)
    dp = torch.zeros_like(p)
    dp[target] = -1 / p[target]  # L = -ln p[target], and the other p do not occur in it
    dp_dz = torch.diag(p) - torch.outer(p, p)  # (N, N): dp_j/dz_i = p_j (1[i = j] - p_i)
    dz = dp @ dp_dz  # equals p - onehot(target)
    dW = torch.outer(dz, x)  # z_i = sum_j W_ij x_j, so dz_i/dW_ij = x_j
    dx = dz @ W  # dz_i/dx_j = W_ij; x_j enters every z_i, so the contributions are added
    return dz, dW, dx


def numerical(W: Tensor, x: Tensor, target: int, h: float = 1e-5) -> Tensor:
    """dL/dW (N, M) as (L(w + h) - L(w - h)) / 2h, one weight at a time."""
    derivative = torch.zeros_like(W)
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            step = torch.zeros_like(W)
            step[i, j] = h
            derivative[i, j] = (forward(W + step, x, target)[2] - forward(W - step, x, target)[2]) / (2 * h)
    return derivative


def main() -> None:
    """Three inputs, two neurons, six weights: forward, backward, the check, and one step of gradient descent."""
    x, target = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), 1
    W = torch.tensor([[0.5, 0.25, 0.125], [0.25, -0.25, 0.1875]], dtype=torch.float64)
    z, p, loss = forward(W, x, target)
    print("inputs x", x.tolist(), "\nweights W", *W.tolist(), "\nthe second neuron is right")
    print(f"\nforward   z = {z.tolist()}   p = {p[0]:.3f}, {p[1]:.3f}   L = -ln {p[1]:.3f} = {loss:.3f}")
    print("by hand   z = 0.5 + 0.5 + 0.5, 0.25 - 0.5 + 0.75   p = 1 / (1 + e^-1), 1 / (1 + e)")

    dz, dW, dx = backward(W, x, target)
    print(f"backward  dL/dz = p - (0, 1) = {dz[0]:.3f}, {dz[1]:.3f}\n\nweight  dL/dz_i * x_j = dL/dW_ij  numerically")
    checked = numerical(W, x, target)
    for i in range(2):
        for j in range(3):
            print(f"W{i + 1}{j + 1}     {dz[i]:7.3f} * {x[j]:.0f}   = {dW[i, j]:7.3f}     {checked[i, j]:7.3f}")
    print("all agree to 8 digits:", bool((dW - checked).abs().max() < 1e-8))
    print("passed on to the layer below: dL/dx =", *(f"{d:.3f}" for d in dx))
    print(f"after W - 0.1 * dL/dW the loss is {forward(W - 0.1 * dW, x, target)[2]:.3f}, before it was {loss:.3f}")


if __name__ == "__main__":
    main()

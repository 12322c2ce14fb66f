"""Recurrent neural network (RNN): reads a sequence token by token and keeps all memory of it in one state vector h.

    h_t = tanh(W x_t + U h_{t-1} + b)
    dh_t / dh_{t-1} = diag(1 - h_t^2) U

A step costs the same after ten tokens as after a million. But steps cannot run in parallel, and the derivative of a
late state with respect to an early one is a product of many factors (1 - h^2) U. With factors below 1 it vanishes, with
factors above 1 it explodes, so dependencies over many tokens are hard to learn. A large U does not help: it preserves
the state, but the factor 1 - h^2 is near 0.

Paper: Elman 1990, "Finding Structure in Time"; Bengio, Simard and Frasconi 1994 (vanishing gradients).
Read before: backpropagation.
Then read: minillm/layers/recurrent.py, minillm/models/rnn.py
Try: python train.py --config rnn-tiny

Change it:
    - U = torch.tensor([[0.5]])
    + U = torch.tensor([[2.0]])
Shown: 10   0    0.9575      0.0000
"""

import torch
from torch import Tensor


def rnn_cell(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """The vector x (D,) of a token and the state h (H,) -> the next state; W (H, D), U (H, H), b (H,)."""
    return torch.tanh(W @ x + U @ h + b)


def rnn(xs: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
    """A sequence (T, D) and the state before it -> the state after each step (T, H)."""
    states = []
    for x in xs:
        h = rnn_cell(x, h, W, U, b)
        states.append(h)
    return torch.stack(states)


def main() -> None:
    """A single 1, then zeros: how fast its effect on a state of one number fades, and its gradient with it."""
    W, b = torch.tensor([[1.0]]), torch.tensor([0.0])
    U = torch.tensor([[0.5]])
    xs = torch.tensor([[1.0]] + 9 * [[0.0]], requires_grad=True)  # (T, 1)
    hs = rnn(xs, torch.zeros(1), W, U, b)
    print(f"one number of state, from h_0 = 0; W = {W.item()}, U = {U.item()}, b = {b.item()}\n")
    print(" t  x_t     h_t   dh_t/dx_1")
    slopes = [torch.autograd.grad(h, xs, retain_graph=True)[0][0].item() for h in hs]
    for t, (x, h, slope) in enumerate(zip(xs.tolist(), hs.tolist(), slopes, strict=True), start=1):
        print(f"{t:>2}   {x[0]:.0f}  {h[0]:8.4f}    {slope:8.4f}")
    print(f"\nby hand: h_1 = tanh(1) = 0.7616    h_2 = tanh({U.item()} * 0.7616) = {hs[1].item():.4f}")
    print(f"dh_1/dx_1 = 1 - h_1^2 = 0.4200    dh_2/dx_1 = 0.4200 * {U.item()} * (1 - h_2^2) = {slopes[1]:.4f}")


if __name__ == "__main__":
    main()

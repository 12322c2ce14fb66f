"""Gated recurrent unit (GRU): a recurrent network with a gate that mixes the previous state and a candidate.

    r = sigmoid(W_r x + U_r h + b_r)            reset gate: how much of the state the candidate sees
    z = sigmoid(W_z x + U_z h + b_z)            update gate: how much of the state is kept
    n = tanh(W_n x + b_n + r * (U_n h + c_n))   candidate
    h' = (1 - z) * n + z * h

It has two gates and one state vector where the LSTM has three and two, so three quarters of the weights. Some papers
(Chung et al. 2014) exchange z and 1 - z; weights trained with one convention are useless with the other. As in torch, r
multiplies U_n h + c_n, so one product serves all gates; in Cho et al. it multiplies h.

Paper: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".
Read before: rnn, lstm.
Then read: minillm/layers/recurrent.py
Try: python train.py --config gru-tiny

Change it:
    - return (1 - z) * n + z * h
    + return z * n + (1 - z) * h
Shown: 10   0    0.0000
"""

import torch
from torch import Tensor

from minillm.lessons.lstm import Gates, gates


def gru_cell(x: Tensor, h: Tensor, W: Gates, U: Gates, b: Gates, c_n: Tensor) -> Tensor:
    """The vector x (D,) of a token and the state h (H,) -> the next state; W (H, D), U (H, H), b (H,), c_n (H,)."""
    r = torch.sigmoid(W["r"] @ x + U["r"] @ h + b["r"])
    z = torch.sigmoid(W["z"] @ x + U["z"] @ h + b["z"])
    n = torch.tanh(W["n"] @ x + b["n"] + r * (U["n"] @ h + c_n))
    return (1 - z) * n + z * h


def gru(xs: Tensor, h: Tensor, W: Gates, U: Gates, b: Gates, c_n: Tensor) -> Tensor:
    """A sequence (T, D) and the state before it -> the state after each step (T, H)."""
    states = []
    for x in xs:
        h = gru_cell(x, h, W, U, b, c_n)
        states.append(h)
    return torch.stack(states)


def main() -> None:
    """A single 1, then zeros: a GRU with one number of state replaces its state at the 1 and then keeps it."""
    W = {name: value[:, None] for name, value in gates(r=0.0, z=-10.0, n=2.0).items()}
    U = {name: value[:, None] for name, value in gates(r=0.0, z=0.0, n=0.0).items()}
    b = gates(r=0.0, z=5.0, n=0.0)
    xs = torch.tensor([[1.0]] + 9 * [[0.0]])
    hs = gru(xs, torch.ones(1), W, U, b, torch.zeros(1))
    print("one number of state, from h_0 = 1. At x = 1, z = sigmoid(-10 + 5) = 0.0067 and n = tanh(2) = 0.9640:")
    print("the state is replaced. At x = 0, z = sigmoid(5) = 0.9933 and n = 0: the state is kept.\n")
    print(" t  x_t     h_t")
    for t, (x, h) in enumerate(zip(xs, hs, strict=True), start=1):
        print(f"{t:>2}   {x.item():.0f}  {h.item():8.4f}")
    print("\nby hand: h_1 = (1 - 0.0067) * 0.9640 + 0.0067 * 1 = 0.9643 and h_2 = 0.9933 * h_1 = 0.9578")


if __name__ == "__main__":
    main()

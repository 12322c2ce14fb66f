"""Long short-term memory (LSTM): a recurrent network with a memory c; gates decide what is kept, written and output.

    i = sigmoid(W_i x + U_i h + b_i)    input gate: how much is written
    f = sigmoid(W_f x + U_f h + b_f)    forget gate: how much is kept
    g = tanh(W_g x + U_g h + b_g)       candidate: what is written
    o = sigmoid(W_o x + U_o h + b_o)    output gate: how much is output
    c' = f * c + i * g                  h' = o * tanh(c')

Along the memory, the derivative of a late c with respect to an early one is a product of forget gates. With gates near
1 it does not vanish, so b_f starts at 1 (Jozefowicz et al. 2015).

Paper: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Gers et al. 2000 (forget gate).
Read before: rnn.
Then read: minillm/layers/recurrent.py
Try: python train.py --config lstm-tiny

Change it:
    - b = gates(i=-5.0, f=5.0, g=0.0, o=5.0)
    + b = gates(i=-5.0, f=0.0, g=0.0, o=5.0)
Shown: 10   0    0.0019
"""

import torch
from torch import Tensor

Gates = dict[str, Tensor]  # a weight or a bias for each gate


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, W: Gates, U: Gates, b: Gates) -> tuple[Tensor, Tensor]:
    """The vector x (D,) of a token and the state h, c (H,) -> the next h and c; W (H, D), U (H, H), b (H,) per gate."""
    i = torch.sigmoid(W["i"] @ x + U["i"] @ h + b["i"])
    f = torch.sigmoid(W["f"] @ x + U["f"] @ h + b["f"])
    g = torch.tanh(W["g"] @ x + U["g"] @ h + b["g"])
    o = torch.sigmoid(W["o"] @ x + U["o"] @ h + b["o"])
    c = f * c + i * g
    return o * torch.tanh(c), c


def lstm(xs: Tensor, h: Tensor, c: Tensor, W: Gates, U: Gates, b: Gates) -> tuple[Tensor, Tensor]:
    """A sequence (T, D) and the state before it -> h and c after each step, each (T, H)."""
    hs, cs = [], []
    for x in xs:
        h, c = lstm_cell(x, h, c, W, U, b)
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), torch.stack(cs)


def gates(**values: float) -> Gates:
    """One number for each gate."""
    return {name: torch.tensor([value]) for name, value in values.items()}


def main() -> None:
    """A single 1, then zeros: an LSTM with one number of state stores the 1 and keeps it."""
    W = {name: value[:, None] for name, value in gates(i=10.0, f=0.0, g=2.0, o=0.0).items()}
    U = {name: value[:, None] for name, value in gates(i=0.0, f=0.0, g=0.0, o=0.0).items()}
    b = gates(i=-5.0, f=5.0, g=0.0, o=5.0)
    xs, c = torch.tensor([[1.0]] + 9 * [[0.0]]), torch.zeros(1, requires_grad=True)
    hs, cs = lstm(xs, torch.zeros(1), c, W, U, b)
    print("one number of state. At x = 1 the input gate is sigmoid(10 - 5) = 0.993 and g = tanh(2) = 0.964;")
    print(
        f"at x = 0 they are sigmoid(-5) = 0.007 and 0. The forget gate is always {torch.sigmoid(b['f']).item():.3f}.\n"
    )
    print(" t  x_t     c_t     h_t   dc_t/dc_0")
    for t, (x, h, c_t) in enumerate(zip(xs, hs, cs, strict=True), start=1):
        (slope,) = torch.autograd.grad(c_t, c, retain_graph=True)
        print(f"{t:>2}   {x.item():.0f}  {c_t.item():8.4f}{h.item():8.4f}    {slope.item():8.4f}")
    print("\nby hand: c_1 = 0.9933 * 0.9640 = 0.9576, and each later c is the one before times the forget gate.")
    print("In the tanh network of the lesson `rnn` only 0.0014 is left of the same 1.")


if __name__ == "__main__":
    main()

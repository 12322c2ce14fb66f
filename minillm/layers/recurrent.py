"""Recurrence: a layer reads token after token, and rewrites a few vectors, its state, at each of them.

    Elman    h' = tanh(W x + U h + b)                                                   Elman 1990
    LSTM     c' = f * c + i * g,   h' = o * tanh(c'),   a second vector c behind gates  Hochreiter and Schmidhuber 1997
    GRU      h' = (1 - z) * n + z * h,   the same idea with one vector                  Cho et al. 2014

Only U h has to wait for the step before, so W x + b of a whole window is one product. Time is the first dimension,
(T, B, H). The layers are torch.nn's RNN, LSTM and GRU, gate for gate, with one bias where torch adds two. Read
before: `lessons/rnn.py`, `lessons/lstm.py`, `lessons/gru.py`. The same, differentiated by hand: `speed/recurrent.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Recurrent(nn.Module):
    """One layer: x (T, B, D) read after a state, a tuple of (B, H) -> the state after each step, a tuple of (T, B, H).

    The first member of a state is the layer's output. weight_x (G H, D), weight_h (G H, H) and bias (G H) hold the G
    gates one below the other. Each gate's weight_h starts orthogonal: it turns a state without stretching it (Saxe et
    al. 2014).
    """

    n_gates = 1
    n_states = 1

    def __init__(self, d_input: int, d_hidden: int):
        super().__init__()
        self.weight_x = nn.Parameter(torch.empty(self.n_gates * d_hidden, d_input))
        self.weight_h = nn.Parameter(torch.empty(self.n_gates * d_hidden, d_hidden))
        self.bias = nn.Parameter(torch.zeros(self.n_gates * d_hidden))
        nn.init.normal_(self.weight_x, std=d_input**-0.5)
        for gate in self.weight_h.data.split(d_hidden):
            nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = [state]
        for given in linear(x, self.weight_x, self.bias):  # W x + b, (T, B, G H)
            states.append(self.step(given, states[-1]))
        return tuple(torch.stack(parts)[1:] for parts in zip(*states, strict=True))

    def step(self, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute the state after one token, of which W x + b is given, (B, G H)."""
        raise NotImplementedError


class Elman(Recurrent):
    """h' = tanh(W x + U h + b). Gradients shrink or grow by a factor a step, so that it learns little from far back."""

    def step(self, given: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        (h,) = state
        return (torch.tanh(given + h @ self.weight_h.T),)


class LSTM(Recurrent):
    """Long short-term memory: c is only scaled and added to, so that what is written stays, and its gradient too.

        i = sigmoid(W_i x + U_i h + b_i)    how much is written
        f = sigmoid(W_f x + U_f h + b_f)    how much is kept; b_f starts at 1: keep (Jozefowicz et al. 2015)
        g = tanh(W_g x + U_g h + b_g)       what is written
        o = sigmoid(W_o x + U_o h + b_o)    how much is shown
        c' = f * c + i * g                  h' = o * tanh(c')

    The state is (h, c); gates stand in torch's order: i, f, g, o.
    """

    n_gates = 4
    n_states = 2

    def __init__(self, d_input: int, d_hidden: int):
        super().__init__(d_input, d_hidden)
        self.bias.data[d_hidden : 2 * d_hidden] = 1.0

    def step(self, given: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        i, f, g, o = (given + h @ self.weight_h.T).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class GRU(Recurrent):
    """Gated recurrent unit.

        r = sigmoid(W_r x + U_r h + b_r)              how much of the past the new vector sees
        z = sigmoid(W_z x + U_z h + b_z)              how much is kept
        n = tanh(W_n x + b_n + r * (U_n h + b_h))     what is new
        h' = (1 - z) * n + z * h

    Gates stand in torch's order: r, z, n. As in torch, r multiplies U_n h, one product for all gates; Cho et al.
    multiply h before the product.
    """

    n_gates = 3

    def __init__(self, d_input: int, d_hidden: int):
        super().__init__(d_input, d_hidden)
        self.bias_h = nn.Parameter(torch.zeros(d_hidden))

    def step(self, given: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        (h,) = state
        r, z, n = given.chunk(3, dim=-1)
        past_r, past_z, past_n = (h @ self.weight_h.T).chunk(3, dim=-1)
        r, z = torch.sigmoid(r + past_r), torch.sigmoid(z + past_z)
        n = torch.tanh(n + r * (past_n + self.bias_h))
        return ((1 - z) * n + z * h,)

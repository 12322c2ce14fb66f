"""Recurrent layers: read one token after another and update a state of one or two vectors at each.

    Elman    h' = tanh(W x + U h + b)                                                   Elman 1990
    LSTM     c' = f * c + i * g,   h' = o * tanh(c'),   a second vector c behind gates  Hochreiter and Schmidhuber 1997
    GRU      h' = (1 - z) * n + z * h,   the same idea with one vector                  Cho et al. 2014

Only U h depends on the step before, so W x + b is one product for the whole window. Time is the first dimension,
(T, B, H). The layers equal torch.nn's RNN, LSTM and GRU gate for gate, with one bias where torch adds two. Read before:
`lessons/rnn.py`, `lessons/lstm.py`, `lessons/gru.py`. `speed/recurrent.py` has the same layers differentiated by hand.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Recurrent(nn.Module):
    """One layer: x (T, B, D) and a state, a tuple of (B, H) -> the state after each step, a tuple of (T, B, H).

    The first member of a state is the layer's output. weight_x (G H, D), weight_h (G H, H) and bias (G H) hold the G
    gates one below the other. Each gate's weight_h is initially orthogonal, so that it does not change the length of
    a state (Saxe et al. 2014).
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
        """Compute the state after one token; `given` is its W x + b, (B, G H)."""
        raise NotImplementedError


class Elman(Recurrent):
    """h' = tanh(W x + U h + b). Gradients shrink or grow by a factor per step, so it learns little from far back."""

    def step(self, given: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        (h,) = state
        return (torch.tanh(given + h @ self.weight_h.T),)


class LSTM(Recurrent):
    """Long short-term memory: c is only scaled and added to, so its contents and their gradients last many steps.

        i = sigmoid(W_i x + U_i h + b_i)    how much is written
        f = sigmoid(W_f x + U_f h + b_f)    how much is kept; b_f starts at 1 (Jozefowicz et al. 2015)
        g = tanh(W_g x + U_g h + b_g)       what is written
        o = sigmoid(W_o x + U_o h + b_o)    how much is output
        c' = f * c + i * g                  h' = o * tanh(c')

    The state is (h, c). The gates are in torch's order: i, f, g, o.
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

        r = sigmoid(W_r x + U_r h + b_r)              how much of the old state enters n
        z = sigmoid(W_z x + U_z h + b_z)              how much of the old state is kept
        n = tanh(W_n x + b_n + r * (U_n h + b_h))     the candidate for the new state
        h' = (1 - z) * n + z * h

    The gates are in torch's order: r, z, n. As in torch, r multiplies U_n h, so one product serves all gates; Cho et
    al. multiply h by r before the product.
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

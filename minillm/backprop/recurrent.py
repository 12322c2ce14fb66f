"""Backward of recurrent cells: backpropagation through time (Werbos 1990).

With i = W_ih x + b_ih and r = W_hh h + b_hh, each split into one part for each gate, a cell is elementwise:

    RNN    h' = tanh(i + r)                                                                 Elman 1990
    LSTM   c' = sigm(f) c + sigm(i) tanh(g),  h' = sigm(o) tanh(c')                         Hochreiter, Schmidhuber 1997
    GRU    h' = (1 - z) n + z h,  n = tanh(i_n + s r_n),  z = sigm(i_z + r_z),  s = sigm(i_s + r_s)     Cho et al. 2014

Gates are in torch's order: i f g o, and s z n (s is torch's r). The state is (h,) or (h, c). In the backward, dh of
step t is the sum of the derivatives from its own output and from step t + 1. All steps share W_ih and W_hh, so their
derivatives are sums over time, computed as one product over all steps. tanh' = 1 - tanh^2, sigm' = sigm (1 - sigm).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.backprop.linear import linear, linear_backward

State = tuple[Tensor, ...]


class Cell(NamedTuple):
    """A step and its derivative.

    forward: (given, recalled, state) -> state', kept. backward: (dstate', kept) -> dgiven, drecalled, dstate. given
    (from the input) and recalled (from the state) are (B, n_gates H), the tensors of a state (B, H). dstate excludes
    the part that passes through `recalled`.
    """

    forward: Callable[[Tensor, Tensor, State], tuple[State, tuple]]
    backward: Callable[[State, tuple], tuple[Tensor, Tensor, State]]


def rnn_cell(given: Tensor, recalled: Tensor, state: State) -> tuple[State, tuple]:
    """RNN step; see `Cell`."""
    h = torch.tanh(given + recalled)
    return (h,), (h,)


def rnn_cell_backward(dstate: State, kept: tuple) -> tuple[Tensor, Tensor, State]:
    """RNN derivative; see `Cell`."""
    (dh,), (h,) = dstate, kept
    dgate = dh * (1 - h.square())
    return dgate, dgate, (torch.zeros_like(dh),)


def lstm_cell(given: Tensor, recalled: Tensor, state: State) -> tuple[State, tuple]:
    """LSTM step; see `Cell`."""
    i, f, g, o = (given + recalled).chunk(4, dim=-1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * state[1] + i * g
    shown = c.tanh()
    return (o * shown, c), (i, f, g, o, state[1], shown)


def lstm_cell_backward(dstate: State, kept: tuple) -> tuple[Tensor, Tensor, State]:
    """LSTM derivative; see `Cell`."""
    (dh, dc), (i, f, g, o, c_before, shown) = dstate, kept
    dc = dc + dh * o * (1 - shown.square())
    dgates = torch.cat(
        [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g.square()), dh * shown * o * (1 - o)],
        dim=-1,
    )
    return dgates, dgates, (torch.zeros_like(dh), dc * f)


def gru_cell(given: Tensor, recalled: Tensor, state: State) -> tuple[State, tuple]:
    """GRU step; see `Cell`."""
    (i_s, i_z, i_n), (r_s, r_z, r_n), (h,) = given.chunk(3, dim=-1), recalled.chunk(3, dim=-1), state
    s, z = (i_s + r_s).sigmoid(), (i_z + r_z).sigmoid()
    n = (i_n + s * r_n).tanh()
    return ((1 - z) * n + z * h,), (s, z, n, r_n, h)


def gru_cell_backward(dstate: State, kept: tuple) -> tuple[Tensor, Tensor, State]:
    """GRU derivative; see `Cell`."""
    (dh,), (s, z, n, r_n, h) = dstate, kept
    dn = dh * (1 - z) * (1 - n.square())
    dz = dh * (h - n) * z * (1 - z)
    ds = dn * r_n * s * (1 - s)
    return torch.cat([ds, dz, dn], dim=-1), torch.cat([ds, dz, dn * s], dim=-1), (dh * z,)


CELLS = {
    "rnn": Cell(rnn_cell, rnn_cell_backward),
    "lstm": Cell(lstm_cell, lstm_cell_backward),
    "gru": Cell(gru_cell, gru_cell_backward),
}


def unroll(
    cell: Cell,
    x: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[tuple[Tensor, State], tuple]:
    """One layer over T steps: x (B, T, D), w_ih (n_gates H, D), w_hh (n_gates H, H) -> (y (B, T, H), state), kept."""
    given, kept_given = linear(x, w_ih, b_ih)
    states, kept_steps = [state], []
    for given_now in given.unbind(1):
        recalled, _ = linear(states[-1][0], w_hh, b_hh)
        state, kept_step = cell.forward(given_now, recalled, states[-1])
        states.append(state)
        kept_steps.append(kept_step)
    h = torch.stack([state[0] for state in states], dim=1)  # (B, 1 + T, H)
    return (h[:, 1:], states[-1]), (cell, kept_given, kept_steps, (h[:, :-1], w_hh, b_hh is not None))


def unroll_backward(
    dy: Tensor, dstate: State, kept: tuple
) -> tuple[Tensor, State, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dy (B, T, H), dstate of the last state -> dx (B, T, D), dstate of the first, dw_ih, dw_hh, db_ih, db_hh."""
    cell, kept_given, kept_steps, kept_recalled = kept
    w_hh, dgiven, drecalled = kept_recalled[1], [], []
    for dy_now, kept_step in zip(reversed(dy.unbind(1)), reversed(kept_steps), strict=True):
        dgiven_now, drecalled_now, dstate = cell.backward((dstate[0] + dy_now, *dstate[1:]), kept_step)
        dstate = (dstate[0] + drecalled_now @ w_hh, *dstate[1:])
        dgiven.append(dgiven_now)
        drecalled.append(drecalled_now)
    dx, dw_ih, db_ih = linear_backward(torch.stack(dgiven[::-1], dim=1), kept_given)
    _, dw_hh, db_hh = linear_backward(torch.stack(drecalled[::-1], dim=1), kept_recalled)
    return dx, dstate, dw_ih, dw_hh, db_ih, db_hh

"""Recurrent cells differentiated by hand: a loop with one small product and a few in-place operations per step.

Autograd keeps every intermediate tensor of every step and goes back through all of them. Here the forward writes each
step into one tensor for all steps. The backward first computes, for all steps at once, the factors that do not depend
on later steps. A loop then finds the gradients of the gates, and two large products those of all weights. The plain
classes are in `layers/recurrent.py`, the derivatives are those of `backprop/recurrent.py`.

Gain: 1.17 times the speed of autograd for an LSTM of 256 and 1.34 times for a GRU (`python -m benchmarks.kernels`); two
layers of such an LSTM reach 0.75 times the speed of `torch.nn.LSTM` (`python -m benchmarks.recurrent`).
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from minillm.layers.recurrent import GRU, LSTM, Elman


class FastElman(Elman):
    """Twin of `Elman`: (T, B, D) after (B, H) -> (T, B, H)."""

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        return (_Elman.apply(x, *state, self.weight_x, self.weight_h, self.bias),)


class FastLSTM(LSTM):
    """Twin of `LSTM`: (T, B, D) after two of (B, H) -> two of (T, B, H)."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return _LSTM.apply(x, *state, self.weight_x, self.weight_h, self.bias)


class FastGRU(GRU):
    """Twin of `GRU`: (T, B, D) after (B, H) -> (T, B, H)."""

    def forward(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        return (_GRU.apply(x, *state, self.weight_x, self.weight_h, self.bias, self.bias_h),)


class _Elman(Function):
    @staticmethod
    def forward(ctx, x, h, weight_x, weight_h, bias):  # type: ignore[no-untyped-def]
        inputs, hs = _project(x, weight_x, bias), _room(x, h)
        before, after, turn = hs[:-1].unbind(), hs[1:].unbind(), _turn(weight_h)
        for t, a in enumerate(inputs.unbind()):
            torch.addmm(a, before[t], turn, out=after[t]).tanh_()
        ctx.save_for_backward(x, hs, weight_x, weight_h)
        return hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, dhs):  # type: ignore[no-untyped-def]
        x, hs, weight_x, weight_h = ctx.saved_tensors
        da = hs[1:].square().neg_().add_(1)  # the slope of tanh; the loop turns it into the gradient of tanh's input
        above = _above(dhs, hs)
        dh, steps = above[-1].clone(), da.unbind()
        for t in reversed(range(len(steps))):
            steps[t].mul_(dh)
            torch.addmm(above[t], steps[t], weight_h, out=dh)
        return _back(da, weight_x), dh, *_weights(da, x, hs[:-1])


class _LSTM(Function):
    @staticmethod
    def forward(ctx, x, h, c, weight_x, weight_h, bias):  # type: ignore[no-untyped-def]
        gates, hs, cs = _project(x, weight_x, bias), _room(x, h), _room(x, c)
        shown = torch.empty_like(hs[1:])  # tanh(c')
        i, f, g, o = (gate.unbind() for gate in _split(gates, 4))
        i_and_f, steps, turn = gates[..., : 2 * h.shape[1]].unbind(), gates.unbind(), _turn(weight_h)
        h, c, tanh_c = hs.unbind(), cs.unbind(), shown.unbind()
        for t, gate in enumerate(steps):
            gate.addmm_(h[t], turn)
            i_and_f[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], c[t], out=c[t + 1]).addcmul_(i[t], g[t])
            torch.tanh(c[t + 1], out=tanh_c[t])
            torch.mul(o[t], tanh_c[t], out=h[t + 1])
        ctx.save_for_backward(x, gates, hs, cs, shown, weight_x, weight_h)
        ctx.set_materialize_grads(False)
        return hs[1:], cs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, dhs, dcs):  # type: ignore[no-untyped-def]
        x, gates, hs, cs, shown, weight_x, weight_h = ctx.saved_tensors
        (i, f, g, o), da = _split(gates, 4), torch.empty_like(gates)
        di, df, dg, do = _split(da, 4)
        # For all steps at once, since they do not depend on later steps: the factors of each gate's gradient.
        _sigmoid_slope(g, i, out=di)  # di = dc * g * i (1 - i)
        _sigmoid_slope(cs[:-1], f, out=df)  # df = dc * c * f (1 - f)
        _tanh_slope(i, g, out=dg)  # dg = dc * i * (1 - g^2)
        _sigmoid_slope(shown, o, out=do)  # do = dh * tanh(c') * o (1 - o)
        through = _tanh_slope(o, shown, out=torch.empty_like(shown)).unbind()  # dc = dc' + dh * o * (1 - tanh(c')^2)
        above, of_c = _above(dhs, hs), _above(dcs, cs)
        dh, dc = above[-1].clone(), of_c[-1].clone()
        of_dc, wide = da[..., : 3 * dh.shape[1]].unflatten(-1, (3, -1)).unbind(), dc[:, None]
        of_dh, keep, steps = do.unbind(), f.unbind(), da.unbind()
        for t in reversed(range(len(steps))):
            dc.addcmul_(dh, through[t])
            of_dc[t].mul_(wide)
            of_dh[t].mul_(dh)
            dc.mul_(keep[t])
            if dcs is not None:
                dc.add_(of_c[t])
            torch.addmm(above[t], steps[t], weight_h, out=dh)
        return _back(da, weight_x), dh, dc, *_weights(da, x, hs[:-1])


class _GRU(Function):
    @staticmethod
    def forward(ctx, x, h, weight_x, weight_h, bias, bias_h):  # type: ignore[no-untyped-def]
        gates, hs, d_hidden = _project(x, weight_x, bias), _room(x, h), h.shape[1]
        turned, inner = torch.empty_like(gates), torch.cat([bias_h.new_zeros(2 * d_hidden), bias_h])
        r, z, n = (gate.unbind() for gate in _split(gates, 3))
        r_and_z, turned_rz = (x[..., : 2 * d_hidden].unbind() for x in (gates, turned))
        h, past, steps, turn = hs.unbind(), _split(turned, 3)[2].unbind(), turned.unbind(), _turn(weight_h)
        for t, u in enumerate(steps):
            torch.addmm(inner, h[t], turn, out=u)
            r_and_z[t].add_(turned_rz[t]).sigmoid_()
            n[t].addcmul_(r[t], past[t]).tanh_()
            torch.lerp(n[t], h[t], z[t], out=h[t + 1])
        ctx.save_for_backward(x, gates, turned, hs, weight_x, weight_h)
        return hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, dhs):  # type: ignore[no-untyped-def]
        x, gates, turned, hs, weight_x, weight_h = ctx.saved_tensors
        (r, z, n), da = _split(gates, 3), torch.empty_like(gates)
        dr, dz, dn = _split(da, 3)
        past = _split(turned, 3)[2]
        # the gradient of n's input is dh * (1 - z) * (1 - n^2)
        new = _tanh_slope(1 - z, n, out=torch.empty_like(hs[1:]))
        _sigmoid_slope(new * past, r, out=dr)
        _sigmoid_slope(hs[:-1] - n, z, out=dz)
        torch.mul(new, r, out=dn)  # here the gradient of U_n h + b_h; below that of W_n x + b_n
        dh = torch.cat([torch.zeros_like(hs[:1]), dhs])
        h, steps, gate, keep = dh.unbind(), da.unbind(), da.unflatten(-1, (3, -1)).unbind(), z.unbind()
        wide = dh[:, :, None].unbind()
        for t in reversed(range(len(steps))):
            gate[t].mul_(wide[t + 1])
            h[t].addmm_(steps[t], weight_h).addcmul_(h[t + 1], keep[t])
        dweight_h, dbias_h = _weights(da, hs[:-1])
        torch.mul(new, dh[1:], out=dn)
        dweight_x, dbias = _weights(da, x)
        return _back(da, weight_x), dh[0], dweight_x, dweight_h, dbias, dbias_h.split(dh.shape[-1])[2]


def _project(x: Tensor, weight_x: Tensor, bias: Tensor) -> Tensor:
    """Compute W x + b at all steps at once: x (T, B, D) -> (T, B, G H)."""
    return torch.addmm(bias, x.flatten(0, 1), weight_x.T).view(*x.shape[:2], len(bias))


def _room(x: Tensor, first: Tensor) -> Tensor:
    """Memory (T + 1, B, H) for the state before the first step, which is filled in, and after each step."""
    room = first.new_empty(len(x) + 1, *first.shape)
    room[0] = first
    return room


def _split(gates: Tensor, n_gates: int) -> tuple[Tensor, ...]:
    """(T, B, G H) -> G views (T, B, H)."""
    return gates.unflatten(-1, (n_gates, -1)).unbind(2)


def _above(gradient: Tensor | None, states: Tensor) -> list[Tensor]:
    """Gradients from the layer above, T + 1 of (B, H): zeros for the first state, then one for each step."""
    gradient = torch.zeros_like(states[1:]) if gradient is None else gradient
    return [torch.zeros_like(states[0]), *gradient.unbind()]


def _turn(weight_h: Tensor) -> Tensor:
    """The transposed weights, copied once into the memory layout that T small products read fastest."""
    return weight_h.T.contiguous()


def _back(da: Tensor, weight_x: Tensor) -> Tensor:
    """The gradient of x, (T, B, D), from the gradients of the gates, (T, B, G H)."""
    return (da.flatten(0, 1) @ weight_x).view(*da.shape[:2], weight_x.shape[1])


def _weights(da: Tensor, *read: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the weights for each input of the gates, (T, B, D) each, and of the bias, in one product."""
    parts = [*read, da.new_ones(*da.shape[:2], 1)]
    gradients = da.flatten(0, 1).T @ torch.cat(parts, dim=2).flatten(0, 1)
    *weights, bias = gradients.split([part.shape[2] for part in parts], dim=1)
    return *weights, bias[:, 0]


def _sigmoid_slope(factor: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """factor * y (1 - y): the backward of y = sigmoid(a)."""
    return torch.ops.aten.sigmoid_backward.grad_input(factor, y, grad_input=out)


def _tanh_slope(factor: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """factor * (1 - y^2): the backward of y = tanh(a)."""
    return torch.ops.aten.tanh_backward.grad_input(factor, y, grad_input=out)

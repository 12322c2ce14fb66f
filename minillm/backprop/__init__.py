"""Derivatives by hand: every layer as two plain functions of tensors, forward and backward.

`dy` stands for dL/dy, the derivative of the loss with respect to y, and has the shape of y. A forward returns its
output and `kept`, the tensors that its backward needs. A backward maps dy to the derivatives of the forward's tensor
arguments, in their order; arguments that are not differentiable (ids, masks, eps) have none.

Everything follows from the chain rule: the derivative of f(g(x)) is dy through f's backward, then through g's
(Rumelhart, Hinton and Williams 1986). Read `python -m minillm.backprop` first, then linear, softmax, cross_entropy,
norm, feedforward, attention.
"""

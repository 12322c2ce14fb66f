"""Derivatives by hand: every layer as two plain functions of tensors, forward and backward.

`dy` stands for dL/dy, how the loss answers to a small change of y, and has the shape of y. A forward returns its output and what
its backward has to know later. A backward turns dy into the derivatives of the tensors that the forward was given, in their order;
what is not a number that could be changed a little (ids, masks, eps) has none.

Chain rule, and nothing else: the derivative of f(g(x)) is dy through f's backward, then through g's (Rumelhart, Hinton and
Williams 1986). Read `python -m minillm.backprop` first, then linear, softmax, cross_entropy, norm, feedforward, attention.
"""

"""Cross-entropy of the next token: softmax and logarithm together have the simplest derivative of all.

    L = -log softmax(logits)[target]          dlogits = softmax(logits) - onehot(target)

What is wanted of each logit is what it said minus what it should have said. Written with logarithms of probabilities, so that a
sure but wrong model has a large loss and not log 0. Read `softmax` before this.
"""

from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, ignore: int = -100) -> tuple[Tensor, tuple]:
    """logits (..., V), targets (...) long, `ignore` where nothing is counted -> sum of nats, kept."""
    counted = targets != ignore
    targets = targets.where(counted, 0)[..., None]  # (..., 1)
    shifted = logits - logits.amax(-1, keepdim=True)
    logprobs = shifted - shifted.exp().sum(-1, keepdim=True).log()  # (..., V)
    nats = -logprobs.gather(-1, targets)[..., 0]
    return nats.masked_fill(~counted, 0.0).sum(), (logprobs, targets, counted)


def cross_entropy_backward(dloss: Tensor | float, kept: tuple) -> Tensor:
    """dloss, a number -> dlogits (..., V)."""
    logprobs, targets, counted = kept
    said = logprobs.exp()
    wanted = said.new_ones(()).expand(targets.shape)
    return said.scatter_add(-1, targets, -wanted).masked_fill(~counted[..., None], 0.0) * dloss

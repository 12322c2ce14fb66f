"""Cross-entropy: the mean of -ln p(target), with p the predicted probabilities and target the true next token.

    softmax(z)_i = exp(z_i) / sum_j exp(z_j)        loss = mean of -ln softmax(z)[target]        perplexity = exp(loss)

A model returns logits z, which may be any numbers; softmax turns them into probabilities. Adding the same number to
all logits changes nothing, so the largest is subtracted first, and no exp overflows. The unit of the loss is the nat.
A uniform guess among V tokens costs ln V nats, which is the loss before training. Perplexity is the number of tokens
among which a uniform guess has the same loss.

Paper: Bridle 1990, "Probabilistic Interpretation of Feedforward Classification Network Outputs".
Read before: nothing.
Then read: minillm/objectives/cross_entropy.py
Try: python train.py --config gpt-tiny

Change it:
    - shifted = logits - logits.amax(dim=-1, keepdim=True)
    + shifted = logits
Shown: logits 1000 and 998, the second is right: loss inf
"""

import math

import torch
from torch import Tensor


def log_softmax(logits: Tensor) -> Tensor:
    """Logits (..., V) -> ln p (..., V)."""
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted - shifted.exp().sum(dim=-1, keepdim=True).log()


def softmax(logits: Tensor) -> Tensor:
    """Logits (..., V) -> probabilities (..., V), above 0 and with sum 1."""
    return log_softmax(logits).exp()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits (..., V) and targets (...) -> the mean of -ln p(target), in nats."""
    return -log_softmax(logits).gather(-1, targets[..., None]).mean()


def perplexity(loss: Tensor) -> Tensor:
    """The size of the vocabulary among which a uniform guess has this loss."""
    return loss.exp()


def main() -> None:
    """Two tokens by hand, a mean over a text, the uniform guess, and logits that overflow."""
    logits = torch.tensor([math.log(9), 0.0])
    print(f"logits          {logits[0]:.3f} {logits[1]:.3f}   exp(logits) 9 and 1, their sum 10")
    print(f"softmax         {softmax(logits)[0]:.3f} {softmax(logits)[1]:.3f}")
    for target, name in enumerate(("first", "second")):
        loss = cross_entropy(logits, torch.tensor(target))
        print(f"loss if the {name:<6} token is the target: -ln {softmax(logits)[target]:.1f} = {loss:.3f}")

    loss = cross_entropy(logits.expand(4, 2), torch.tensor([0, 0, 0, 1]))
    print(f"\na text of 4 tokens, first first first second: loss (3 * 0.105 + 2.303) / 4 = {loss:.3f}")
    print(f"perplexity exp({loss:.3f}) = {perplexity(loss):.3f}")

    print("\nuniform guess among V tokens: all logits are equal, the loss is ln V and the perplexity V")
    for vocab_size in (2, 65, 50257):
        loss, ln_v = cross_entropy(torch.zeros(vocab_size), torch.tensor(0)), math.log(vocab_size)
        print(f"V = {vocab_size:>5}   loss {loss:6.3f}   ln V {ln_v:6.3f}   perplexity {perplexity(loss):.0f}")

    loss = cross_entropy(torch.tensor([1000.0, 998.0]), torch.tensor(1))
    print(f"\nlogits 1000 and 998, the second is right: loss {loss:.3f}")
    print(
        f"logits    2 and   0, the second is right: loss {cross_entropy(torch.tensor([2.0, 0.0]), torch.tensor(1)):.3f}"
    )


if __name__ == "__main__":
    main()

"""Training loop: take a batch, compute the loss and its gradient, change the parameters a little, and repeat.

    p = p - lr(step) * AdamW(clip(dL/dp))        clip(g) = g * min(1, 1 / |g|)

The loss starts at ln V, the cost of a uniform guess. The learning rate rises first, while AdamW's means contain few
gradients, and falls afterwards, so that the last steps are small. Clipping limits the effect of a single unusual batch;
|g| is the norm of the gradient of all parameters together. The batch is a function of the step number, so a stopped run
can resume with the same batches. The target is the token after the last one read. If it is the last token read instead,
the loss still falls to 0, but the model only copies.

Paper: Pascanu et al. 2013 (clipping); Goyal et al. 2017 (warm-up).
Read before: cross_entropy, backpropagation, optimizers (AdamW).
Then read: minillm/training/loop.py, minillm/training/step.py, minillm/training/schedule.py
Try: python train.py --config gpt-tiny

Change it:
    - targets = text[starts + 2]
    + targets = text[starts + 1]
Shown: the model writes: hee
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minillm.lessons.cross_entropy import cross_entropy
from minillm.lessons.optimizers import adamw

TEXT = "hello world, " * 10
CHARS = sorted(set(TEXT))
LR, FLOOR, WARMUP, CLIP = 0.3, 0.01, 5, 1.0


def rate(step: int, n_steps: int) -> float:
    """The fraction of LR at step 0, 1, ...: a line up to 1, then a line down to FLOOR."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return FLOOR + (1 - FLOOR) * (n_steps - 1 - step) / (n_steps - WARMUP)


def train(
    model: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], batch: Callable[[int], tuple], n_steps: int
) -> list[float]:
    """Train the parameters of `model`, tokens -> logits, in place; returns the loss of every step."""
    m, v = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    losses = []
    for step in range(n_steps):
        tokens, targets = batch(step)
        loss = cross_entropy(model(tokens), targets)
        gradients = torch.autograd.grad(loss, parameters)  # backpropagation
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        lr = LR * rate(step, n_steps)
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            clipped = g * min(1.0, CLIP / norm)
            p.data, m[i], v[i] = adamw(p.data, clipped, m[i], v[i], step + 1, lr, 0.9, 0.95, eps=1e-8, decay=0.0)
        losses.append(loss.item())
    return losses


def random_batch(step: int) -> tuple[Tensor, Tensor]:
    """Two neighboring characters (B, 2) from random places of the text, and the character after them (B,)."""
    text = torch.tensor([CHARS.index(char) for char in TEXT])
    starts = torch.randint(len(text) - 2, (32,), generator=torch.Generator().manual_seed(step))
    tokens = torch.stack([text[starts], text[starts + 1]], dim=1)
    targets = text[starts + 2]
    return tokens, targets


def main() -> None:
    """A table of logits for each pair of characters learns a text of 13 characters that repeats."""
    table = torch.zeros(len(CHARS), len(CHARS), len(CHARS), requires_grad=True)
    print(f"text {TEXT[:26]!r}..., V = {len(CHARS)} characters, ln V = {math.log(len(CHARS)):.3f}")
    losses = train(lambda tokens: table[tokens[:, 0], tokens[:, 1]], [table], random_batch, n_steps=60)
    for step in (0, 1, 2, 5, 10, 20, 40, 59):
        print(f"step {step:>2}   lr {LR * rate(step, 60):.3f}   loss {losses[step]:.3f}")
    written = "he"
    while len(written) < 26:
        before, last = (CHARS.index(char) for char in written[-2:])
        written += CHARS[int(table[before, last].argmax())]
    print(f"the model writes: {written}")


if __name__ == "__main__":
    main()

"""Backpropagation through a network of three inputs and two neurons, with every number (python -m minillm.backprop).

Each derivative of the chain rule (Rumelhart, Hinton and Williams 1986) is printed beside its numerical value. Source:
`textbook`.
"""

import sys
from collections.abc import Iterator

from torch import Tensor

from minillm.backprop.textbook import INPUTS, RIGHT, WEIGHTS, WORDS, descend, numerically, step_by_step
from minillm.config.flags import Parser

LR, N_STEPS = 0.1, 12


def main(argv: list[str] | None = None) -> int:
    """Print the worked example; return the exit status."""
    Parser(prog="python -m minillm.backprop", description=__doc__).parse(argv)
    for part in (the_network, forward, backward, update, repeat):
        print("\n".join(part()), end="\n\n")
    return 0


def the_network() -> Iterator[str]:
    yield f"Three inputs x, two neurons, {WEIGHTS.numel()} weights w, no biases. The neurons give the probabilities"
    yield f"that {WORDS[0]!r} or {WORDS[1]!r} follows 'The cat sat on the'. The right word is {WORDS[RIGHT]!r}."
    yield ""
    yield row("", *(f"x{j} =" for j in (1, 2, 3)))
    yield row("", *INPUTS)
    yield row("", *(f"w{j}" for j in (1, 2, 3)))
    for word, weights in zip(WORDS, WEIGHTS, strict=True):
        yield row(word, *weights)


def forward() -> Iterator[str]:
    steps = step_by_step(WEIGHTS)
    yield "FORWARD   z = w1 x1 + w2 x2 + w3 x3     a = softmax(z)     L = -ln a"
    yield ""
    yield row("", "z", "a", "L if right")
    for i, word in enumerate(WORDS):
        yield row(word, steps.z[i], steps.a[i], -steps.a[i].log(), "  <- right" if i == RIGHT else "")
    yield ""
    yield f"The loss is L = -ln {steps.a[RIGHT]:.1f} = {steps.loss:.3f}."


def backward() -> Iterator[str]:
    steps = step_by_step(WEIGHTS)
    yield "BACKWARD  dL/dw = dL/da * da/dz * dz/dw, the chain rule, from right to left through the network"
    yield ""
    yield row("", "dL/da", *(f"da/dz_{word}" for word in WORDS), "dL/dz")
    for i, word in enumerate(WORDS):
        yield row(word, steps.dl_da[i], *steps.da_dz[i], steps.dl_dz[i])
    yield ""
    yield f"dL/dz is the sum of dL/da * da/dz: probabilities {steps.a[0]:.1f}, {steps.a[1]:.1f} minus targets 0, 1."
    yield "dz/dw is the input that the weight multiplies. Next to each product is the numerical derivative"
    yield "(L(w + h) - L(w - h)) / 2h with h = 0.00001."
    yield ""
    measured = numerically(lambda weights: step_by_step(weights).loss, WEIGHTS)
    yield row("", "dL/dz", "dz/dw = x", "dL/dw", "numerically", "difference")
    for i, word in enumerate(WORDS):
        for j in range(3):
            there = steps.dl_dw[i, j], measured[i, j]
            yield row(f"w{j + 1} of {word}", steps.dl_dz[i], INPUTS[j], *there, f"{abs(there[0] - there[1]):.0e}")


def update() -> Iterator[str]:
    steps = step_by_step(WEIGHTS)
    yield f"UPDATE    w = w - lr * dL/dw, with lr = {LR}: against the derivative, so that L falls"
    yield ""
    yield row("", "w before", "dL/dw", "w after")
    for i, word in enumerate(WORDS):
        for j in range(3):
            yield row(f"w{j + 1} of {word}", WEIGHTS[i, j], steps.dl_dw[i, j], WEIGHTS[i, j] - LR * steps.dl_dw[i, j])


def repeat() -> Iterator[str]:
    yield "REPEAT    the same update again and again"
    yield ""
    yield row("updates", *(f"a of {word}" for word in WORDS), "L")
    for i, steps in enumerate(descend(WEIGHTS, LR, N_STEPS)):
        yield row(str(i), *steps.a, f"{steps.loss:.3f}")


def row(name: str, *cells: Tensor | str) -> str:
    """A line of a table: 14 columns for the name, 12 for every cell, numbers with four decimals."""
    texts = [cell if isinstance(cell, str) else f"{cell:.4f}" for cell in cells]
    return (f"  {name:<12}" + "".join(f"{text:>12}" for text in texts)).rstrip()


if __name__ == "__main__":
    sys.exit(main())

"""Ragged reads: the same tokens with EMPTY before, after or between them, and rows that grow at different rates."""

import copy
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from minillm.constants import EMPTY

WHERE = ("first", "last", "in the middle")  # where EMPTY stands


def columns(n: int, width: int, where: str) -> list[int]:
    """Those of `width` columns in which n tokens stand."""
    before = {"first": 0, "last": n, "in the middle": n // 2}[where]
    return [*range(before), *range(width - n + before, width)]


def ragged(rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]], width: int) -> Tensor:
    """A read (B, width) of the tokens of each row in columns of its own, EMPTY in all others."""
    read = torch.full((len(rows), width), EMPTY)
    for filled, row, where in zip(read, rows, places, strict=True):
        filled[list(where)] = torch.tensor(row, dtype=torch.long)
    return read


def scattered(model: nn.Module, seed: int) -> nn.Module:
    """The same model, which reads everything that it is given in two ragged reads, or in one if it has no state."""
    twin, chance, read = copy.copy(model), Random(seed), model.forward

    def forward(tokens: Tensor, state=None, **more):
        columns_of = [(row >= 0).nonzero().flatten().tolist() for row in tokens]
        cuts = [chance.randint(0, len(filled)) if state is not None else 0 for filled in columns_of]
        logits = None
        halves = [(filled[:cut], filled[cut:]) for filled, cut in zip(columns_of, cuts, strict=True)]
        for parts in zip(*halves, strict=True):
            width, texts = max(map(len, parts)) + chance.randint(0, 2), zip(tokens, parts, strict=True)
            places = [columns(len(part), width, chance.choice(WHERE)) for part in parts]
            out, state = read(ragged([row[part].tolist() for row, part in texts], places, width), state, **more)
            logits = out.new_zeros(*tokens.shape, out.shape[-1]) if logits is None else logits
            for b, (part, where) in enumerate(zip(parts, places, strict=True)):
                logits[b, part] = out[b, where]
        return logits, state

    twin.forward = forward
    return twin

"""Rules: how the tensors of a foreign model become ours, and back.

A rule names some of our tensors, some of theirs, and the two functions between them. Most rules only rename one tensor;
others transpose, split, stack or reorder. Every foreign tensor must be used by exactly one rule, and every tensor of
ours must come from one, so no weight is lost or left at its random start.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Change = Callable[..., Sequence[Tensor]]


def unchanged(*tensors: Tensor) -> Sequence[Tensor]:
    """The tensors as they are."""
    return tensors


class Rule(NamedTuple):
    """Some tensors of ours, and the same weights in theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    inward: Change = unchanged  # their tensors -> ours
    outward: Change = unchanged  # our tensors -> theirs


def rename(ours: str, theirs: str) -> Rule:
    """The same tensor under two names."""
    return Rule((ours,), (theirs,))


def transposed(ours: str, theirs: str) -> Rule:
    """A matrix that they keep transposed, as GPT-2 does."""
    return Rule((ours,), (theirs,), lambda x: [x.T.contiguous()], lambda x: [x.T.contiguous()])


def stacked(ours: str, theirs: Sequence[str]) -> Rule:
    """The matrices of E experts, which we keep in one tensor (E, out, in)."""
    return Rule((ours,), tuple(theirs), lambda *each: [torch.stack(each)], lambda whole: list(whole.unbind()))


def bring_in(rules: Iterable[Rule], weights: Mapping[str, Tensor], neutral: Callable[[str], bool]) -> dict[str, Tensor]:
    """Our state from their weights. `neutral(name)`: tensors of theirs that hold no weights, such as tables.

    Raises ValueError for a tensor of theirs that is missing, or that no rule uses.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for rule in rules:
        for name in rule.theirs:
            if name not in weights:
                raise ValueError(f"tensor {name} = missing: expected it beside the others; take all files of the model")
        state.update(zip(rule.ours, rule.inward(*(weights[name] for name in rule.theirs)), strict=True))
        used.update(rule.theirs)
    for name in weights:
        if name not in used and not neutral(name):
            raise ValueError(
                f"tensor {name}: a weight that minillm does not understand, so the model would be wrong; "
                "take a model without it"
            )
    return state


def take_out(rules: Iterable[Rule], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights from our state."""
    return {
        name: tensor
        for rule in rules
        for name, tensor in zip(rule.theirs, rule.outward(*(state[name] for name in rule.ours)), strict=True)
    }

"""Rotary scaling: change the frequencies of rotary positions, so that a model reads texts longer than it learned from.

A pair of numbers that turns by `frequency` radians per token has the wavelength 2 pi / frequency, in tokens. Pairs with
a wavelength beyond the trained length have never completed a turn in training, so larger angles are new to the model.

    linear    frequency / factor for all pairs                                    Chen et al. 2023
    ntk       a larger base: the fastest pair keeps its frequency, the slowest    bloc97 2023; YaRN, section 3.1
              is divided by factor
    yarn      pairs that complete many turns within the trained length keep       Peng et al. 2023
              their frequency, those with few turns are divided by factor, with
              a ramp between; queries and keys are multiplied by `gain`
    llama3    the same idea with a smooth transition, and no gain                 Dubey et al. 2024, Llama 3.1

Read before: `positions`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Scaling(NamedTuple):
    """The parameters of a rotary scaling."""

    kind: str = "none"  # a key of `SCALINGS`
    factor: float = 1.0  # by how much longer the texts may be
    trained_length: int = 0  # tokens in a text of the original training
    few_turns: float = 1.0  # pairs with fewer turns in `trained_length` tokens are divided by `factor`
    many_turns: float = 32.0  # pairs with more turns keep their frequency
    gain: float = 0.0  # factor of queries and keys in yarn; 0: 0.1 ln(factor) + 1
    whole_pairs: bool = True  # whether the ramp of yarn begins and ends at whole pairs


class Frequencies(NamedTuple):
    """The frequencies of all pairs, in radians per token, (K / 2) float64; and a factor of queries and keys."""

    frequencies: Tensor
    gain: float = 1.0


def frequencies_of(width: int, base: float) -> Tensor:
    """Frequencies without scaling, base^(-2i / width): (width / 2) float64."""
    # subtle: on the CPU by name, since a model is also built on the device "meta", where tensors have no values
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)


def _none(width: int, base: float, s: Scaling) -> Frequencies:
    return Frequencies(frequencies_of(width, base))


def _linear(width: int, base: float, s: Scaling) -> Frequencies:
    return Frequencies(frequencies_of(width, base) / s.factor)


def _ntk(width: int, base: float, s: Scaling) -> Frequencies:
    if width == 2:
        raise ValueError("d_head = 2: expected at least 4 beside rotary_scaling = ntk, which needs two pairs; raise it")
    return Frequencies(frequencies_of(width, base * s.factor ** (width / (width - 2))))


def _yarn(width: int, base: float, s: Scaling) -> Frequencies:
    def pair_with(turns: float) -> float:
        """The (fractional) index of the pair that completes this many turns within the trained length."""
        return width * math.log(s.trained_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_with(s.many_turns), pair_with(s.few_turns)
    if s.whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float64, device="cpu") - first) / max(last - first, 0.001)
    return Frequencies(_mix(frequencies_of(width, base), ramp.clamp(0, 1), s.factor), s.gain or _yarn_gain(s.factor))


def _llama3(width: int, base: float, s: Scaling) -> Frequencies:
    plain = frequencies_of(width, base)
    turns = s.trained_length * plain / (2 * math.pi)
    kept = ((turns - s.few_turns) / (s.many_turns - s.few_turns)).clamp(0, 1)
    return Frequencies(_mix(plain, 1 - kept, s.factor))


SCALINGS: dict[str, Callable[[int, float, Scaling], Frequencies]] = {  # from d_head, base and parameters
    "none": _none,
    "linear": _linear,
    "ntk": _ntk,
    "yarn": _yarn,
    "llama3": _llama3,
}


def _mix(frequencies: Tensor, share: Tensor, factor: float) -> Tensor:
    """Divide a share (K / 2), 0 ... 1, of each frequency by `factor`."""
    return frequencies * (1 - share) + frequencies / factor * share


def _yarn_gain(factor: float) -> float:
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0

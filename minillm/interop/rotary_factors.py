"""Rotary factors of a GGUF file: by how much each pair of numbers turns more slowly; the rotary scaling of Llama 3.1.

llama.cpp's converter computes them from the parameters of the scaling, which it does not write. They can be found from
the factors: the last pair, wholly scaled, has the factor itself, and the share of a frequency that is kept in between,

    kept = (1 / f - 1 / factor) / (1 - 1 / factor) = (turns - few) / (many - few)

is a line in the turns that the pair completes within the trained length, so two pairs give `few` and `many`. Only their
ratio to the trained length matters. Read before: `layers/rotary_scaling.py`.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minillm.layers.rotary_scaling import SCALINGS, Scaling, frequencies_of

NAME = "rope_freqs.weight"
TRAINED_LENGTH = 8192  # of Llama 3, where a file does not state it
USUAL = (1.0, 4.0)  # few and many turns of Llama 3.1, 3.2 and 3.3
CLOSE = 1e-5  # the converter computes in float32


def factors_of(width: int, base: float, s: Scaling) -> Tensor:
    """The frequency of each pair without scaling over that with it: (width / 2) float64."""
    return frequencies_of(width, base) / SCALINGS[s.kind](width, base, s).frequencies


def scaling_of(factors: Tensor, base: float, trained_length: int = TRAINED_LENGTH) -> dict[str, Any]:
    """The scaling that gives these factors (width / 2), as `rope_scaling` of a config.json; empty for ones alone.

    Raises ValueError if no scaling of Llama 3's kind does.
    """
    f = factors.double()
    if bool((f == 1).all()):
        return {}
    factor = float(f"{float(f[-1]):.7g}")
    turns = trained_length * frequencies_of(2 * len(f), base) / (2 * math.pi)
    solutions = _solutions(f, factor, turns) if factor > 1 else []
    for few, many in [USUAL, *solutions]:
        found = factors_of(2 * len(f), base, Scaling("llama3", factor, trained_length, few, many))
        if torch.allclose(found, f, rtol=CLOSE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": few,
                "high_freq_factor": many,
                "original_max_position_embeddings": trained_length,
            }
    raise ValueError(
        f"tensor {NAME}: expected the factors of a rotary scaling as Llama 3 has it, found {f[0]:g} ... {f[-1]:g}; "
        "import the folder with config.json and safetensors instead"
    )


def _solutions(f: Tensor, factor: float, turns: Tensor) -> Iterator[tuple[float, float]]:
    """Yield few and many turns on lines through two pairs: as round numbers, and as they are.

    The two are the outermost ones that are partly scaled; of fewer, the neighbors help, whose shares are 1 and 0.
    """
    n_kept, n_not_whole = int((f <= 1 + CLOSE).sum()), int((f < factor * (1 - CLOSE)).sum())
    ends = [n_kept, n_not_whole - 1]
    if ends[0] >= ends[1]:
        ends = list(range(max(n_kept - 1, 0), min(n_not_whole + 1, len(f))))
    kept = ((1 / f - 1 / factor) / (1 - 1 / factor)).clamp(0, 1)
    for i, j in pairwise(ends):
        slope = float((kept[i] - kept[j]) / (turns[i] - turns[j]))
        if slope > 0:
            few = float(turns[i] - kept[i] / slope)
            yield float(f"{few:.4g}"), float(f"{few + 1 / slope:.4g}")
            yield few, few + 1 / slope

"""Random tiny models of transformers, computed in float64, with the config and weights that their files would have."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import nn


class InFloat64(ModuleType):
    """The module torch, whose float32 is float64: foreign layers that widen to float32 then keep float64."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


@contextlib.contextmanager
def in_float64(*classes: type[nn.Module]) -> Iterator[None]:
    """Build and run models of these classes without any rounding to float32, also of their rotary angles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        for name in {"transformers.modeling_rope_utils", *(kind.__module__ for kind in classes)}:
            patch.setattr(sys.modules[name], "torch", InFloat64("torch"))
        yield


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """All weights random, norms and biases included, in float64 and eval mode."""
    torch.manual_seed(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 2
        parameter.data = torch.randn_like(parameter) / scale
    return model

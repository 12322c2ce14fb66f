"""Optional packages: one sentence where one is missing."""

import sys

import pytest
import torch

from minillm.interop.extra import extra
from minillm.interop.gguf_writing import write_gguf
from minillm.interop.safetensors_file import write_safetensors


@pytest.mark.parametrize("name", ["gguf", "safetensors"])
def test_a_package_that_is_missing_is_named_with_the_remedy(tmp_path, monkeypatch, name):
    for module in [*sys.modules]:
        if module.partition(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=rf"^{name}: expected this package to be installed.* pip install \"minillm"):
        if name == "gguf":
            write_gguf(tmp_path / "x", {"general.architecture": "llama"}, {})
        else:
            write_safetensors(tmp_path / "x", {"a": torch.zeros(3)})
    assert not any(tmp_path.iterdir())


def test_a_package_that_is_there_is_returned():
    assert extra("json").dumps([]) == "[]"

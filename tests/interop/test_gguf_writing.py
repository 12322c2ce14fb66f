"""Writing GGUF: the package `gguf` and our reader read what is written; the rest is refused before."""

import math

import numpy as np
import pytest
import torch

from minillm.interop.gguf_file import open_gguf
from minillm.interop.gguf_writing import write_gguf

gguf = pytest.importorskip("gguf")
LLAMA = {"general.architecture": "llama"}
METADATA = LLAMA | {
    "llama.block_count": 7,
    "llama.attention.layer_norm_rms_epsilon": 2.0**-17,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "",
    "tokenizer.ggml.tokens": ["<s>", "", "Ġ", "🎈"],
    "tokenizer.ggml.token_type": [3, 1, -1],
    "tokenizer.ggml.scores": [0.5, -2.0],
    "some.flags": [True, False],
    "some.large": np.uint64(2**64 - 1),
    "some.bytes": np.arange(5, dtype=np.uint8),
    "some.double": np.float64(0.1),
}


def test_both_readers_read_what_is_written(tmp_path):
    tensors = {
        "a.weight": torch.randn(3, 5, 7),
        "b.weight": torch.randn(7, 5).half().T,
        "c.weight": torch.nn.Parameter(torch.randn(11).bfloat16()),
        "d.weight": torch.randn(5, 96).bfloat16(),
    }
    assert write_gguf(tmp_path / "new" / "x.gguf", METADATA, tensors, q8_0={"d.weight"}) == {}
    opened, reader = open_gguf(tmp_path / "new" / "x.gguf"), gguf.GGUFReader(tmp_path / "new" / "x.gguf")
    assert opened.types == {"a.weight": "F32", "b.weight": "F16", "c.weight": "BF16", "d.weight": "Q8_0"}
    for name in "abc":
        assert torch.equal(opened[f"{name}.weight"], tensors[f"{name}.weight"])
    rounded = tensors["d.weight"].float()
    scales = rounded.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1) / 127
    assert ((opened["d.weight"] - rounded).abs() <= scales * 0.51).all() and not torch.equal(
        opened["d.weight"], rounded
    )
    for x in reader.tensors:
        values = gguf.quants.dequantize(x.data, x.tensor_type)
        assert np.array_equal(values, opened[x.name].float().numpy())
    kinds = {name: [kind.name for kind in field.types] for name, field in reader.fields.items()}
    assert kinds["llama.block_count"] == ["UINT32"] and kinds["tokenizer.ggml.token_type"] == ["ARRAY", "INT32"]
    assert kinds["some.large"] == ["UINT64"] and kinds["some.bytes"] == ["ARRAY", "UINT8"]
    assert kinds["some.double"] == ["FLOAT64"] and kinds["tokenizer.ggml.scores"] == ["ARRAY", "FLOAT32"]
    assert opened.metadata.keys() == METADATA.keys()
    for name, value in METADATA.items():
        many = isinstance(value, list | np.ndarray)
        assert list(opened.metadata[name]) == list(value) if many else opened.metadata[name] == value


def test_what_was_read_can_be_written(tmp_path):
    tensors, metadata = {"a": torch.randn(3, 5)}, {k: v for k, v in METADATA.items() if not k.startswith("some.")}
    write_gguf(tmp_path / "x.gguf", metadata, tensors)
    first = open_gguf(tmp_path / "x.gguf")
    write_gguf(tmp_path / "y.gguf", first.metadata, first)
    assert (tmp_path / "y.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()


def test_tied_tensors_are_written_once(tmp_path):
    x = torch.randn(3, 5)
    assert write_gguf(tmp_path / "x.gguf", LLAMA, {"embed": x, "head": x, "v": x.clone()}) == {"head": "embed"}
    assert list(open_gguf(tmp_path / "x.gguf")) == ["embed", "v"]


VALUES = [2**32, -1, [2**31], 1e300, None, [], [1, "a"], [1, 1.0], [True, 1], {}, b"a", [[1]], np.zeros((2, 2))]
VALUES += [np.array(["a"]), np.float16(1), np.array([]), int]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_that_gguf_cannot_hold_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"some.name = .*: expected true, false, text, a number"):
        write_gguf(tmp_path / "x.gguf", LLAMA | {"some.name": value}, {})
    assert not any(tmp_path.iterdir())


TENSORS = {
    "float64": torch.zeros(3).double(),
    "integers": torch.zeros(3).long(),
    "no dimensions": torch.tensor(3.0),
    "five dimensions": torch.zeros(1, 1, 1, 1, 1),
    "no numbers": torch.zeros(0, 3),
    "NaN": torch.tensor([math.nan]),
    "a width that is no multiple of 32": torch.zeros(3, 48),
}


@pytest.mark.parametrize("x", TENSORS.values(), ids=TENSORS.keys())
def test_a_tensor_that_gguf_cannot_hold_is_refused(tmp_path, x):
    with pytest.raises(ValueError, match=r"tensor 'w' .*expected"):
        write_gguf(tmp_path / "x.gguf", LLAMA, {"v": torch.zeros(3), "w": x}, q8_0=["w"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", [{}, {"general.architecture": ""}, {"general.architecture": 3}], ids=str)
def test_a_file_names_its_architecture(tmp_path, metadata):
    with pytest.raises(ValueError, match=r"general.architecture = .*: expected a name"):
        write_gguf(tmp_path / "x.gguf", metadata, {})


def test_a_name_to_quantize_is_that_of_a_tensor(tmp_path):
    with pytest.raises(ValueError, match="q8_0 = 'v': expected the names of tensors"):
        write_gguf(tmp_path / "x.gguf", LLAMA, {"w": torch.zeros(3, 32)}, q8_0=["w", "v"])

"""safetensors: equal to the package for whole files, one file or several; one sentence for all others."""

import json
import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.interop.safetensors_file import DTYPES, INDEX, SINGLE, open_safetensors, write_safetensors

safetensors = pytest.importorskip("safetensors.torch")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def weights() -> dict[str, torch.Tensor]:
    """A tensor of each dtype."""
    return {f"{dtype}.weight": (3 * torch.randn(3, 5, 7)).to(dtype) for dtype in DTYPES.values()}


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found.double(), expected.double())


def file(header: dict | bytes, data: bytes = b"", n: int | None = None) -> bytes:
    """A file; `n`: what it says of the length of its header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if n is None else n) + header + data


def entry(shape: tuple[int, ...] = (2,), begin: int = 0, end: int = 8, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_file_of_the_package_is_read(tmp_path):
    expected = weights()
    safetensors.save_file(expected, tmp_path / SINGLE)
    for path in (tmp_path, tmp_path / SINGLE):
        opened = open_safetensors(path)
        assert set(opened) == set(expected) and len(opened) == len(expected)
        for name, x in expected.items():
            assert opened.shapes[name] == x.shape and opened.dtypes[name] == x.dtype
            assert same(opened[name], x)


def test_the_package_reads_what_is_written(tmp_path):
    expected = weights()
    assert write_safetensors(tmp_path / "new" / "x.safetensors", expected) == {}
    found = safetensors.load_file(tmp_path / "new" / "x.safetensors")
    assert found.keys() == expected.keys() and all(same(found[name], x) for name, x in expected.items())
    with safetensors.safe_open(tmp_path / "new" / "x.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_tied_tensors_are_written_once_and_views_as_themselves(tmp_path):
    x = torch.randn(5, 7)
    tensors = {"embed": x, "head": torch.nn.Parameter(x), "turned": x.T, "row": x[1], "equal": x.clone()}
    assert write_safetensors(tmp_path / "x.safetensors", tensors) == {"head": "embed"}
    found = open_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == {"embed", "turned", "row", "equal"}
    assert all(torch.equal(found[name], tensors[name]) for name in found)


def sharded(folder, index: object = None):
    """A model in two shards."""
    a, b, c = torch.arange(3.0), torch.arange(5.0), torch.arange(7.0)
    safetensors.save_file({"a": a, "b": b}, folder / FIRST)
    safetensors.save_file({"c": c}, folder / SECOND)
    index = {"metadata": {"total_size": 60}, "weight_map": {"a": FIRST, "b": FIRST, "c": SECOND}} | (index or {})
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def test_shards_are_one_model(tmp_path):
    opened = open_safetensors(sharded(tmp_path))
    assert {name: x.tolist() for name, x in opened.items()} == {"a": [0, 1, 2], "b": [*range(5)], "c": [*range(7)]}
    assert opened.shapes == {"a": (3,), "b": (5,), "c": (7,)}


OUTSIDE = [
    "../x.safetensors",
    "/x.safetensors",
    "a/x.safetensors",
    "a\\x.safetensors",
    "c:x.safetensors",
    "..",
    "",
    3,
    None,
]
INDEXES = {
    "a missing shard": ({"a": FIRST, "c": "model-00003-of-00003.safetensors"}, "expected the shard 'model-00003"),
    "a tensor in no shard": ({"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND}, "'d': .*found it in no shard"),
    "a tensor in another shard": (
        {"a": FIRST, "b": SECOND, "c": SECOND},
        f"'b': .*found it in {FIRST}, where .*{SECOND}",
    ),
    "a tensor that it does not name": ({"a": FIRST, "c": SECOND}, f"'b': .*found it in {FIRST}, where .*nothing"),
    "nothing": ({}, 'expected "weight_map" with the shard of each tensor'),
    "a list": ([FIRST], 'expected "weight_map"'),
    **{f"a path: {path}": ({"a": path}, "expected the name of a .safetensors file in the same") for path in OUTSIDE},
    "a long name": ({"a": "x" * 5000 + ".safetensors"}, "expected the name of a .safetensors file"),
    "a name that is no text": ({"a": "\ud800\n.safetensors"}, "expected the shard "),
}


@pytest.mark.parametrize(("shard_of", "sentence"), INDEXES.values(), ids=INDEXES.keys())
def test_an_index_that_does_not_fit_is_refused(tmp_path, shard_of, sentence):
    (tmp_path / "model").mkdir()
    safetensors.save_file({"a": torch.zeros(3)}, tmp_path / "x.safetensors")  # what a path out of the folder would find
    with pytest.raises(ValueError, match=sentence) as e:
        open_safetensors(sharded(tmp_path / "model", {"weight_map": shard_of}))
    assert str(e.value).startswith(str(tmp_path)) and "\n" not in str(e.value) and str(e.value).isprintable()


def test_a_tensor_in_two_shards_or_named_twice_is_refused(tmp_path):
    sharded(tmp_path)
    (tmp_path / INDEX).write_text(
        f'{{"weight_map": {{"a": "{FIRST}", "b": "{FIRST}", "c": "{SECOND}", "a": "{SECOND}"}}}}'
    )
    with pytest.raises(ValueError, match=r"JSON without repeated names .'a' is there 2 times"):
        open_safetensors(tmp_path)
    safetensors.save_file({"c": torch.zeros(7), "a": torch.zeros(3)}, tmp_path / SECOND)
    sharded_index = {"weight_map": {"a": FIRST, "b": FIRST, "c": SECOND}}
    (tmp_path / INDEX).write_text(json.dumps(sharded_index))
    with pytest.raises(ValueError, match=f"{SECOND}: tensor 'a': expected it in one shard, found it in {FIRST} too"):
        open_safetensors(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff", b'{"weight_map": 3}', b"3", b'"weight_map"'])
def test_an_index_that_is_no_index_is_refused(tmp_path, text):
    (tmp_path / INDEX).write_bytes(text)
    with pytest.raises(ValueError, match=r"index.json: expected (JSON|\"weight_map\")"):
        open_safetensors(tmp_path)


def test_a_folder_without_weights_or_with_two_kinds_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none; name a folder with weights"):
        open_safetensors(tmp_path)
    with pytest.raises(ValueError, match="expected a file of weights, found none"):
        open_safetensors(tmp_path / SINGLE)
    write_safetensors(sharded(tmp_path) / SINGLE, {"a": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"expected either .* and .*; remove one"):
        open_safetensors(tmp_path)


HOSTILE = {
    "nothing": (b"", "header too small"),
    "a long header": (file({}, n=2**60), "header too large"),
    "no JSON": (file(b"{"), "invalid JSON"),
    "deep JSON": (file(b'{"a":' + b"[" * 50_000), "recursion limit"),
    "overlapping": (file({"a": entry(), "b": entry()}, bytes(8)), "invalid offset"),
    "a hole": (file({"a": entry(), "b": entry((1,), 12, 16)}, bytes(16)), "invalid offset"),
    "backwards": (file({"a": entry((2,), 8, 0)}, bytes(8)), "invalid offset"),
    "huge dimensions": (file({"a": entry((2**60, 2**60))}, bytes(8)), "overflow"),
    "more than the file": (file({"a": entry((2**40,), 0, 2**42)}, bytes(8)), "not fully covered"),
    "more after it": (file({"a": entry()}, bytes(9)), "not fully covered"),
    "a huge dimension of nothing": (file({"a": entry((2**60, 0), 0, 0)}), "of 2 dimensions, 1 of them 0: expected"),
    "many dimensions": (file({"a": entry((1,) * 99_999 + (2,))}, bytes(8)), "of 100000 dimensions"),
    "an unknown dtype": (file({"a": entry(dtype="Q8")}, bytes(8)), "unknown variant"),
    "a dtype that is not read": (file({"a": entry((8,), dtype="F8_E8M0")}, bytes(8)), "of F8_E8M0: expected F64, F32"),
}


@pytest.mark.parametrize(("data", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_in_a_sentence(tmp_path, data, sentence):
    (tmp_path / SINGLE).write_bytes(data)
    with pytest.raises(ValueError, match=sentence) as e:
        open_safetensors(tmp_path)
    assert str(e.value).startswith(f"{tmp_path / SINGLE}: ") and "\n" not in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, dtype, bad):
    x = torch.randn(3, 5)
    x[2, 3] = bad
    safetensors.save_file({"good": torch.zeros(3), "some.weight": x.to(dtype)}, tmp_path / SINGLE)
    opened = open_safetensors(tmp_path)
    assert not opened["good"].any()
    with pytest.raises(ValueError, match=r"tensor 'some.weight' has a NaN or an infinity: expected finite weights"):
        opened["some.weight"]
    with pytest.raises(ValueError, match=r"tensor 'some.weight' has a NaN"):
        write_safetensors(tmp_path / "new", {"some.weight": x.to(dtype)})
    assert not (tmp_path / "new").exists()


TINY = file({"a": entry((2,), 0, 8), "b": entry((3,), 8, 14, "F16")}, bytes(14))


def is_read_or_refused(folder, data: bytes) -> bool:
    """Whether a file can be used as it says, or is refused in a sentence about it; any other error is raised."""
    (folder / "x.safetensors").write_bytes(data)
    try:
        found = open_safetensors(folder / "x.safetensors")
        return all(
            found[name].shape == found.shapes[name] and found[name].dtype == found.dtypes[name] for name in found
        )
    except ValueError as e:
        return "expected" in str(e) and "x.safetensors: " in str(e)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    assert is_read_or_refused(tmp_path, TINY)
    for n in range(len(TINY)):
        (tmp_path / SINGLE).write_bytes(TINY[:n])
        with pytest.raises(ValueError, match="expected a file of safetensors"):
            open_safetensors(tmp_path)


@given(st.data())
def test_changed_bytes_are_read_or_refused(tmp_path_factory, data):
    changed = bytearray(TINY)
    for place in data.draw(st.lists(st.integers(0, len(TINY) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789,:[]{}"'))
    assert is_read_or_refused(tmp_path_factory.getbasetemp(), bytes(changed))

"""Reading GGUF: equal to the package `gguf` for whole files, one sentence and no memory for all others."""

import math
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minillm.interop.gguf_file import TYPES, open_gguf
from minillm.interop.gguf_values import MAX_STRING
from tests.interop.gguf_bytes import array, gguf_file, number, tensor, text

gguf = pytest.importorskip("gguf")
PLAIN = {"F32": np.float32, "F16": np.float16}
QUANTIZED = ["BF16", "Q8_0", "Q5_0", "Q4_0", "Q4_1"]
SCALARS = {
    "UINT8": 255,
    "INT8": -128,
    "UINT16": 65535,
    "INT16": -32768,
    "UINT32": 2**32 - 1,
    "INT32": -(2**31),
    "UINT64": 2**64 - 1,
    "INT64": -(2**63),
    "FLOAT32": 0.1,
    "FLOAT64": 0.1,
    "BOOL": True,
    "STRING": "Ġhello 🎈\n",
}


def written(path, alignment: int = 32):
    """A file with every type of value and of tensor, by the package `gguf`."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    kinds = gguf.GGUFValueType
    for name, value in SCALARS.items():
        writer.add_key_value(f"one.{name}", value, kinds[name])
        writer.add_key_value(f"some.{name}", [value] * 3, kinds.ARRAY, kinds[name])
    writer.add_key_value("nested", [[1, 2, 3], [4], [5, 6]], kinds.ARRAY)
    rng = np.random.default_rng(0)
    for name, dtype in PLAIN.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal((3, 5, 7)).astype(dtype))
    for name in QUANTIZED:
        kind = gguf.GGMLQuantizationType[name]
        data = gguf.quants.quantize(rng.standard_normal((5, 96)).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("gguf") / "whole.gguf")


@pytest.mark.parametrize("alignment", [8, 32, 128])
def test_tensors_are_those_of_the_package_gguf(tmp_path, alignment):
    path = written(tmp_path / "a.gguf", alignment)
    opened, expected = open_gguf(path), gguf.GGUFReader(path).tensors
    assert list(opened) == [x.name for x in expected] and len(opened) == 7
    for x in expected:
        values = torch.from_numpy(gguf.quants.dequantize(x.data, x.tensor_type).copy())
        assert torch.equal(opened[x.name].float(), values) and opened.types[x.name] == x.tensor_type.name
        assert opened.shapes[x.name] == opened[x.name].shape == tuple(x.shape[::-1].tolist())
        assert opened.dtypes[x.name] == opened[x.name].dtype
    assert opened.dtypes["F16.weight"] == torch.float16 and opened.dtypes["BF16.weight"] == torch.bfloat16


def test_values_are_those_that_were_written(whole):
    metadata = open_gguf(whole).metadata
    assert metadata.pop("general.architecture") == "llama"
    assert [x.tolist() for x in metadata.pop("nested")] == [[1, 2, 3], [4], [5, 6]]
    assert metadata.keys() == {f"{n}.{name}" for n in ("one", "some") for name in SCALARS}
    for name, value in SCALARS.items():
        value = struct.unpack("f", struct.pack("f", value))[0] if name == "FLOAT32" else value
        assert metadata[f"one.{name}"] == value and type(metadata[f"one.{name}"]) is type(value)
        assert list(metadata[f"some.{name}"]) == [value] * 3
        dtype = {"BOOL": "bool"}.get(name, name.lower())
        assert name == "STRING" or metadata[f"some.{name}"].dtype == dtype


def test_strings_are_a_sequence(tmp_path):
    words = ["", "a", "Ġb", "🎈" * 5]
    strings = opened(tmp_path, gguf_file((array(8, 4, b"".join(map(text, words))),))).metadata["some.array"]
    assert list(strings) == words and strings[-1] == words[3] and strings[1:3] == words[1:3] and len(strings) == 4
    assert "Ġb" in strings and strings.index("🎈" * 5) == 3
    with pytest.raises(IndexError):
        strings[4]


def test_levels_of_four_bits_are_taken_as_they_are(whole):
    opened = open_gguf(whole)
    for name in opened:
        packed = opened.int4(name)
        assert (packed is not None) == name.startswith("Q4"), "only these fit"
        assert packed is None or torch.equal(packed.dequantize(), opened[name])


def test_unquantized_tensors_are_views_and_the_file_never_changes(whole):
    before, opened = whole.read_bytes(), open_gguf(whole)
    opened["F32.weight"].zero_()
    assert not opened["F32.weight"].any() and whole.read_bytes() == before


def test_asking_for_no_tensor_is_a_key_error(whole):
    opened = open_gguf(whole)
    assert "F32.weight" in opened and "x" not in opened and opened.get("x") is None
    with pytest.raises(KeyError, match="expected one of its 7 tensors"):
        opened["x"]


@pytest.mark.parametrize(("kind", "block"), [(0, 4), (1, 2), (30, 2), (2, 18), (8, 34)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, kind, block, bad):
    dtype = {0: torch.float32, 30: torch.bfloat16}.get(kind, torch.float16)
    scale = torch.tensor([bad], dtype=dtype).view(torch.uint8).numpy().tobytes()
    n = 1 if block < 5 else 32
    data = bytes(2 * block) + scale + b"\1" * (block - len(scale))
    found = opened(tmp_path, gguf_file((), (tensor("some.weight", (n, 3), kind),), data))
    with pytest.raises(ValueError, match=r"x.gguf: tensor 'some.weight' has a NaN or an infinity: expected finite"):
        found["some.weight"]
    if kind == 2:
        with pytest.raises(ValueError, match=r"x.gguf: tensor .some.weight. has"):
            found.int4("some.weight")


def opened(folder, data: bytes):
    path = folder / "x.gguf"
    path.write_bytes(data)
    return open_gguf(path)


HUGE, F32 = 2**60, bytes(128)
HOSTILE = {
    "no file of this kind": (b"PK\3\4" + bytes(60), "first bytes = b'PK.*: expected b'GGUF'"),
    "nothing": (b"", "found an empty one"),
    "version 1": (gguf_file(version=1), "version = 1: expected 2 or 3"),
    "big-endian": (gguf_file(version=3 << 24), "version = 50331648: expected 2 or 3, little-endian"),
    "more values than it has": (gguf_file(n_values=HUGE), "expected at most the"),
    "more tensors than it has": (gguf_file(n_tensors=HUGE), "expected at most the"),
    "a name longer than the file": (gguf_file((text("a", HUGE),)), "expected at most 1,048,576"),
    "a name of the greatest length": (gguf_file((text("a", 2**64 - 1),)), "expected at most 1,048,576"),
    "a name longer than what is left": (gguf_file((text("a", 999),)), "999 bytes at byte 32: expected at most the"),
    "a name that is not UTF-8": (gguf_file((text(b"\xff\xfe") + bytes(16),)), "expected UTF-8"),
    "an unknown type of value": (gguf_file((text("a") + struct.pack("<I", 13),)), "value type = 13 at byte"),
    "neither true nor false": (gguf_file((number(7, 2),)), "true or false = 2 before byte .*: expected 0 or 1"),
    "an array longer than the file": (gguf_file((array(12, HUGE),)), "9,223,372,036,854,775,808 bytes at byte"),
    "strings more than the file": (gguf_file((array(8, HUGE),)), "strings at byte"),
    "strings a few more than the file": (gguf_file((array(8, 7, text("a") + text("b")),)), "expected"),
    "a string in an array too long": (gguf_file((array(8, 1, text("a", MAX_STRING + 1)),)), "expected at most 1,048"),
    "an unknown type of items": (gguf_file((array(13, 1),)), "array of type 13 at byte"),
    "empty arrays without end": (gguf_file((array(9, HUGE, struct.pack("<IQ", 0, 0) * 50),)), "expected at most the"),
    "arrays in arrays in arrays": (gguf_file((array(9, 1, struct.pack("<IQ", 9, 1) * 2000),)), "nested more than 4"),
    "one name twice": (gguf_file((number(4, 1), number(4, 2))), "name 'some.number': expected it once"),
    "one tensor twice": (gguf_file((), (tensor(), tensor(place=128)), bytes(256)), "name 'w': expected it once"),
    "many dimensions": (
        gguf_file((), (tensor(n_dims=2**32 - 1),), F32),
        "of 4,294,967,295 dimensions: expected",
    ),
    "five dimensions": (gguf_file((), (tensor(dims=(2, 2, 2, 2, 2)),), F32), "of 5 dimensions: expected 1 to 4"),
    "no dimensions": (gguf_file((), (tensor(dims=(), kind=2),), F32), "of 0 dimensions: expected 1 to 4"),
    "no numbers": (gguf_file((), (tensor(dims=(0, 3)),), F32), r"of shape \(3, 0\): expected"),
    "a huge dimension": (gguf_file((), (tensor(dims=(HUGE,)),), F32), "tensor 'w' of 4,611,686,018,427,387,904 bytes"),
    "dimensions that overflow": (gguf_file((), (tensor(dims=(HUGE, HUGE, HUGE, 16)),), F32), "within the .* bytes"),
    "an unknown type of tensor": (gguf_file((), (tensor(kind=99),), F32), "'w' of type number 99: expected one of F32"),
    "a type that is not read": (gguf_file((), (tensor(kind=13),), F32), "'w' of type Q5_K: expected one of F32, F16"),
    "a row of half a block": (gguf_file((), (tensor(dims=(48, 2), kind=8),), F32), "expected rows of 32, 2 x 32"),
    "a place after the end": (gguf_file((), (tensor(place=32),), F32), "tensor 'w' of 128 bytes at byte 96"),
    "a place of the greatest number": (gguf_file((), (tensor(place=2**64 - 32),), F32), "tensor 'w' of 128 bytes"),
    "a place between": (gguf_file((), (tensor(place=8),), bytes(256)), "expected a multiple of 32"),
    "tensors that overlap": (
        gguf_file((), (tensor(), tensor("v", place=96)), bytes(256)),
        "tensors 'w' and 'v': expected places that do not overlap",
    ),
    "tensors in one place": (gguf_file((), (tensor(), tensor("v")), F32), "expected places that do not overlap"),
    "an alignment of 0": (
        gguf_file((number(4, 0, "general.alignment"),)),
        "general.alignment = 0: expected a power of two from 8",
    ),
    "an alignment of 24": (
        gguf_file((number(4, 24, "general.alignment"),)),
        "general.alignment = 24",
    ),
    "an alignment of true": (
        gguf_file((number(7, 1, "general.alignment"),)),
        "general.alignment = True",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_in_a_sentence_without_memory(tmp_path, data, sentence):
    (tmp_path / "x.gguf").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=sentence) as e:
            open_gguf(tmp_path / "x.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(e.value).startswith(f"{tmp_path / 'x.gguf'}: ") and "\n" not in str(e.value) and len(str(e.value)) < 500
    assert peak < 200_000


def test_no_file_is_a_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(ValueError, match="expected a GGUF file, found none"):
            open_gguf(path)


MANY = {
    "short strings": array(8, 20_000, text("ab") * 20_000),
    "numbers": array(2, 400_000, bytes(800_000)),
    "true and false": array(7, 400_000, bytes(400_000)),
}


@pytest.mark.parametrize("value", MANY.values(), ids=MANY.keys())
def test_long_arrays_take_no_more_memory_than_the_file(tmp_path, value):
    (tmp_path / "x.gguf").write_bytes(gguf_file((value,)))
    tracemalloc.start()
    try:
        opened = open_gguf(tmp_path / "x.gguf")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(opened.metadata["some.array"]) >= 20_000
    assert peak < (tmp_path / "x.gguf").stat().st_size + 200_000


def test_the_memory_of_names_and_values_is_limited(tmp_path):
    names = b"".join(text(f"{i:x}") + b"\0\0\0\0\0" for i in range(70_000))
    nested = array(9, 140_000, struct.pack("<IQ", 0, 0) * 140_000)
    for data in (gguf_file((names,), n_values=70_000), gguf_file((nested,))):
        with pytest.raises(ValueError, match="more names and values than fit into"):
            opened(tmp_path, data)


TINY = gguf_file(
    (number(4, 7), array(8, 2, text("a") + text("bc")), array(5, 2, bytes(8), "b"), array(7, 2, b"\0\1", "c")),
    (tensor("w", (32, 2), 2), tensor("v", (3,), 0, 64)),
    bytes(64) + struct.pack("<3f", 1, 2, 3),
)


def is_read_or_refused(folder, data: bytes) -> bool:
    """Whether a file can be used as it says, or is refused in a sentence about it; any other error is raised."""
    try:
        found = opened(folder, data)
        for value in found.metadata.values():
            str(value if isinstance(value, str | int | float) else list(value))
        for name in found:
            found.int4(name)
        return all(found[name].shape == found.shapes[name] for name in found)
    except ValueError as e:
        return "expected" in str(e) and "x.gguf: " in str(e)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    assert opened(tmp_path, TINY)["v"].tolist() == [1, 2, 3]
    for n in range(len(TINY)):
        with pytest.raises(ValueError, match=r"x.gguf: .*expected"):
            opened(tmp_path, TINY[:n])


@given(st.data())
def test_changed_bytes_are_read_or_refused(tmp_path_factory, data):
    changed = bytearray(TINY)
    for place in data.draw(st.lists(st.integers(0, len(TINY) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.sampled_from([0, 1, 9, 127, 128, 255]) | st.integers(0, 255))
    assert is_read_or_refused(tmp_path_factory.getbasetemp(), bytes(changed))


@given(st.integers(4, len(TINY) - 8), st.sampled_from([2**15, 2**31, 2**32, 2**60, 2**63, 2**64 - 1]))
def test_a_great_number_anywhere_is_read_or_refused(tmp_path_factory, place, value):
    changed = TINY[:place] + struct.pack("<Q", value) + TINY[place + 8 :]
    assert is_read_or_refused(tmp_path_factory.getbasetemp(), changed)


@given(st.binary(max_size=200))
def test_any_bytes_after_the_header_are_read_or_refused(tmp_path_factory, tail):
    assert is_read_or_refused(tmp_path_factory.getbasetemp(), b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + tail)
    assert is_read_or_refused(tmp_path_factory.getbasetemp(), gguf_file((text("a") + struct.pack("<I", 9) + tail,)))


def test_types_that_are_not_read_have_the_names_of_ggml():
    for kind in gguf.GGMLQuantizationType:
        assert TYPES[kind.value] == kind.name

"""Checkpoints: a round trip is exact to the bit, and invalid files raise a clear error."""

import errno
import io
import json
import os
import pickle
import shutil
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.training import checkpoint
from minillm.training.checkpoint import FORMAT, fingerprint, load, save

DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
CONTENTS = {"step": {"w": torch.arange(35.0).reshape(5, 7)}, "text": "né", "list": [1, 2.5, None, True], "n": 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A small checkpoint, as bytes."""
    path = tmp_path_factory.mktemp("written") / "a.pt"
    save(path, CONTENTS)
    return path.read_bytes()


def refused(path, data: bytes) -> str:
    """The error message for a file with these bytes."""
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said.removeprefix(f"{path}: ")


@settings(max_examples=25)
@given(
    arrays=st.dictionaries(
        st.text(max_size=9), st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)), max_size=3
    ),
    rest=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=9,
    ),
    as_text=st.booleans(),
)
def test_what_is_read_is_what_was_written_by_a_path_of_either_kind(tmp_path_factory, arrays, rest, as_text):
    path = tmp_path_factory.getbasetemp() / "round" / "trip.pt"
    place = str(path) if as_text else path
    tensors = {name: (9 * torch.randn(shape)).to(dtype) for name, (dtype, shape) in arrays.items()}
    save(place, {"tensors": tensors, "rest": rest})
    found = load(place)
    assert found.keys() == {"tensors", "rest"} and found["rest"] == rest and type(found["rest"]) is type(rest)
    assert found["tensors"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found["tensors"][name].dtype == tensor.dtype and torch.equal(found["tensors"][name], tensor)
    save(place, found)  # what was loaded can be saved again
    assert torch.load(path, weights_only=True).keys() == found.keys(), "torch reads it too"


def test_a_bit_that_flips_anywhere_is_noticed(written, tmp_path):
    for i in (*range(0, len(written) - 150, 5), *range(len(written) - 150, len(written))):  # each of those of the seal
        flipped = bytearray(written)
        flipped[i] ^= 1 << (i % 8)
        said = refused(tmp_path / "flipped.pt", bytes(flipped))
        assert "damaged" in said or "format = " in said


@settings(max_examples=60)
@given(
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    how=st.sampled_from(["flip", "cut", "insert", "append", "zero a tail"]),
)
def test_no_damage_is_read(written, tmp_path_factory, where, bit, how):
    at = int(where * len(written))
    data = {
        "flip": written[:at] + bytes([written[at] ^ 1 << bit]) + written[at + 1 :],
        "cut": written[:at],
        "insert": written[:at] + bytes([1 << bit]) + written[at:],
        "append": written + bytes([1 << bit]),
        "zero a tail": written[:at] + bytes(len(written) - at),
    }[how]
    said = refused(tmp_path_factory.getbasetemp() / "damaged.pt", data)
    assert "damaged" in said or "format = " in said or (not data and "found an empty file" in said)


class Payload:
    """An object with an observable effect when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("MARK",)


def torch_bytes(contents, **how) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, **how)
    return buffer.getvalue()


def sealed(contents) -> bytes:
    buffer = io.BytesIO(torch_bytes(contents))
    checkpoint._seal(buffer)
    return buffer.getvalue()


FOREIGN = {
    "nothing": (b"", "expected a checkpoint, found an empty file"),
    "a text": (json.dumps({"format": 1}).encode(), "damaged, or not a checkpoint"),
    "zeros": (bytes(999), "damaged, or not a checkpoint"),
    "an archive that is cut": (torch_bytes(CONTENTS)[:-400], "damaged, or not a checkpoint"),
    "a head of an archive": (b"PK\x03\x04", "damaged, or not a checkpoint"),
    "the former format": (torch_bytes({"format": 1, **CONTENTS}), f"format = 1: expected {FORMAT}"),
    "the former format and nothing": (torch_bytes({"format": 1}), f"format = 1: expected {FORMAT}"),
    "this format without a seal": (torch_bytes({"format": FORMAT, **CONTENTS}), "damaged"),
    "somebody else's weights": (torch_bytes(OrderedDict(w=torch.ones(3))), f"format = None: expected {FORMAT}"),
    "a tensor": (torch_bytes(torch.ones(3)), f"format = None: expected {FORMAT}"),
    "code": (torch_bytes({"format": 1, "step": Payload()}), "contains code, which was not run"),
    "code under a seal": (sealed({"step": Payload()}), "contains code, which was not run"),
    "a whole module": (torch_bytes(torch.nn.Linear(2, 3)), "contains code, which was not run"),
    "a pickle with code": (pickle.dumps(Payload()), "contains code, which was not run"),
    "a pickle without": (pickle.dumps({"format": 1}), "damaged, or not a checkpoint"),
}


@pytest.mark.parametrize(("data", "sentence"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_refused_by_what_it_is_and_nothing_in_it_is_run(data, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(tmp_path / "x.pt", data)
    assert not (tmp_path / "MARK").exists()


def test_the_payload_of_these_tests_would_leave_its_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "MARK").exists()


@settings(max_examples=10)
@given(number=st.integers(0, 10**9).filter(lambda n: n != FORMAT))
def test_a_checkpoint_of_any_other_format_is_refused_by_both_numbers(number, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "other.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", number)
        save(path, CONTENTS)
        assert load(path).keys() == CONTENTS.keys()
    assert f"format = {number}: expected {FORMAT}" in refused(path, path.read_bytes())


def test_no_file_is_refused_and_so_is_a_folder(tmp_path):
    for place in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(ValueError, match="expected a checkpoint, found none"):
            load(place)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_keeps_the_checkpoint_before_it_or_says_that_there_is_none(
    number, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.pt"
    for before in (False, True):
        if before:
            save(path, CONTENTS)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError) as caught:
                save(path, {"other": 1})
        said = str(caught.value)
        assert str(path) in said and "Errno" not in said
        assert ("the previous one is intact" in said) == before and ("there is no previous one" in said) != before
        assert ("free some space" in said) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
        assert [p.name for p in tmp_path.iterdir()] == ["a.pt"] * before
    assert load(path).keys() == CONTENTS.keys()


def state(draw) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=3, unique=True))
    shapes = {name: draw(st.lists(st.integers(1, 5), max_size=3)) for name in names}
    return {
        name: torch.arange(int(torch.tensor(shape).prod()), dtype=torch.int32).reshape(shape) + 7
        for name, shape in shapes.items()
    }


states = st.composite(state)()


@given(first=states)
def test_the_fingerprint_is_that_of_names_types_shapes_and_bits_and_of_nothing_else(first):
    before = fingerprint(first)
    name, value = next(iter(first.items()))
    same = [
        {k: v.clone() for k, v in reversed(first.items())},  # in any order, in any memory
        {k: v.T.contiguous().T if v.ndim == 2 else v for k, v in first.items()},
        {k: torch.nn.Parameter(v, requires_grad=False) for k, v in first.items()},
    ]
    assert all(fingerprint(each) == before for each in same)
    bits = value.clone()
    bits.view(-1)[-1] ^= 1
    others = [
        {**{k: v for k, v in first.items() if k != name}, name + "c": value},
        {**first, name: value[None]},
        {**first, name: value.view(torch.float32)},  # the same bits, of another type
        {**first, name: bits},
        {**first, name + "c": value},
        {k: v for k, v in first.items() if k != name},
    ]
    hashes = [fingerprint(each) for each in others]
    assert before not in hashes and len(set(hashes)) == len(hashes)


def test_two_tensors_that_trade_their_names_or_their_border_are_others():
    one, two = torch.arange(6), torch.arange(6, 12)
    states = [
        {"a": one, "b": two},
        {"a": two, "b": one},
        {"a": torch.arange(5), "b": torch.arange(5, 12)},
        {"ab": torch.arange(12)},
    ]
    assert len({fingerprint(each) for each in states}) == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_every_type_and_of_no_dimension_have_a_fingerprint(dtype):
    assert fingerprint({"a": torch.ones((), dtype=dtype)}) != fingerprint({"a": torch.zeros((), dtype=dtype)})


def test_a_copy_of_a_file_is_the_checkpoint(written, tmp_path):
    (tmp_path / "a.pt").write_bytes(written)
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    assert load(tmp_path / "b.pt").keys() == CONTENTS.keys()

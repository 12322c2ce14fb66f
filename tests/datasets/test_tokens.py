"""Token files: ids survive a round trip, with every vocabulary size and every damage to the file."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.datasets.tokens import narrowest, token_stream
from minillm.system.atomic import write_atomically
from minillm.tokenizers.tokenizer import END, Tokenizer


class Letters(Tokenizer):
    """Character c is id (ord(c) + shift) of a vocabulary whose last id is END; counts the calls of its encoder."""

    def __init__(self, vocab_size: int = 1_200_000, shift: int = 0):
        self.vocab_size, self.shift, self.special_tokens, self.n_calls = vocab_size, shift, {END: vocab_size - 1}, 0

    def encode(self, text):
        self.n_calls += 1
        return [ord(char) + self.shift for char in text]

    def decode_bytes(self, tokens):
        return "".join(chr(token - self.shift) for token in tokens if token != self.end_id).encode()

    def to_dict(self):
        return {"kind": "Letters", "vocab_size": self.vocab_size, "shift": self.shift}


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8)


@settings(max_examples=50)
@given(texts)
def test_the_stream_is_end_then_each_document_and_its_end(tmp_path_factory, documents):
    stream, end = token_stream(documents, Letters(), tmp_path_factory.mktemp("cache")), Letters().end_id
    naive, starts = [end], []
    for document in documents:
        starts.append(len(naive) - 1)
        naive += [ord(char) for char in document] + [end]
    assert stream.ids.tolist() == naive
    assert stream.starts.tolist() == starts and stream.starts.dtype == np.int64
    assert stream.n_bytes == len("".join(documents).encode())


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(2, "u1"), (255, "u1"), (256, "u1"), (257, "<u2"), (65535, "<u2"), (65536, "<u2"), (65537, "<u4"), (2**24, "<u4")],
)
def test_the_narrowest_type_still_holds_the_last_id(tmp_path, vocab_size, dtype):
    tokenizer = Letters(vocab_size, shift=vocab_size - 2)
    for _ in range(2):  # written, then read
        stream = token_stream(["\0\0", "\0"], tokenizer, tmp_path)
        assert stream.ids.dtype == narrowest(vocab_size) == np.dtype(dtype)
        last = vocab_size - 1
        assert stream.ids.tolist() == [last, last - 1, last - 1, last, last - 1, last]


def test_the_second_time_nothing_is_encoded_and_the_ids_are_mapped_read_only(tmp_path):
    first, second = Letters(), Letters()
    written = token_stream(["one", "two"], first, tmp_path)
    read = token_stream(["one", "two"], second, tmp_path)
    assert (first.n_calls, second.n_calls) == (2, 0)
    assert np.array_equal(written.ids, read.ids) and isinstance(read.ids, np.memmap)
    assert read.n_bytes == written.n_bytes == 6
    for stream in (written, read):
        with pytest.raises(ValueError, match="read-only"):
            stream.ids[0] = 0


@pytest.mark.parametrize(
    ("documents", "tokenizer"),
    [(["ab", "c"], Letters()), (["c", "ab"], Letters()), (["a", "b", "c"], Letters()), (["a", "bc"], Letters(shift=1))],
)
def test_another_text_another_border_or_another_tokenizer_is_another_file(tmp_path, documents, tokenizer):
    token_stream(["a", "bc"], Letters(), tmp_path)
    token_stream(documents, tokenizer, tmp_path)
    assert tokenizer.n_calls == len(documents)
    assert len(list(tmp_path.iterdir())) == 2


def test_whoever_edits_a_tokenizers_code_gets_new_ids(tmp_path, monkeypatch):
    source = tmp_path / "edited.py"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def tokenizer(code: str) -> Tokenizer:
        source.write_text(code)
        spec = importlib.util.spec_from_file_location("edited", source)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "edited", module)
        spec.loader.exec_module(module)
        return module.Mine(100)

    code = (
        "from minillm.tokenizers.tokenizer import END, Tokenizer\n\n\n"
        "class Mine(Tokenizer):\n"
        "    def __init__(self, vocab_size): self.vocab_size, self.special_tokens = vocab_size, {END: 0}\n"
        "    def encode(self, text): return [1 for _ in text]\n"
        "    def decode_bytes(self, tokens): return b''\n"
        "    def to_dict(self): return {}\n"
    )
    assert token_stream(["xx"], tokenizer(code), tmp_path / "cache").ids.tolist() == [0, 1, 1, 0]
    assert token_stream(["xx"], tokenizer(code.replace("[1 for", "[2 for")), tmp_path / "cache").ids.tolist() == [
        0,
        2,
        2,
        0,
    ]


@settings(max_examples=50)
@given(st.data())
def test_a_damaged_file_is_noticed_and_written_anew(tmp_path_factory, data):
    cache, documents = tmp_path_factory.mktemp("cache"), ["damage", "me"]
    right = token_stream(documents, Letters(), cache).ids.tolist()
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = whole[:place]
    flipped = cut + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    file.write_bytes(data.draw(st.sampled_from([cut, flipped, whole + b"\0", whole + bytes(4)])))
    tokenizer = Letters()
    assert token_stream(documents, tokenizer, cache).ids.tolist() == right
    assert tokenizer.n_calls == 2
    assert file.read_bytes() == whole


def test_where_the_cache_cannot_be_written_the_ids_stay_in_memory(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    for _ in range(2):
        stream = token_stream(["abc"], Letters(), blocked)
        assert stream.ids.tolist()[1:4] == [97, 98, 99]
        assert not isinstance(stream.ids, np.memmap) and not stream.ids.flags.writeable


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"old")
    assert path.read_bytes() == b"old"

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("bad", [-1, 99, 100])
def test_an_end_or_an_id_beyond_the_vocabulary_that_comes_out_of_text_is_caught(tmp_path, bad):
    with pytest.raises(AssertionError):
        token_stream(["\0"], Letters(100, shift=bad), tmp_path)

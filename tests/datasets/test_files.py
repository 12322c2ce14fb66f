"""Files of every kind are read correctly and reported, or refused with a clear error; reading never blocks."""

import gzip
import json
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.files import CODE, PROSE, read_documents, read_text, read_with_account

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), min_size=1).filter(str.strip)


@given(texts, st.sampled_from([".txt", ".md", ".py", ""]), st.booleans())
def test_gzip_is_unpacked_whatever_the_name(tmp_path_factory, text, suffix, named):
    path = tmp_path_factory.mktemp("packed") / f"my{suffix}{'.gz' if named else ''}"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_documents(path) == [text]


def test_a_packed_file_is_of_the_kind_that_it_packs(tmp_path):
    path = tmp_path / "my.JSONL.gz"
    path.write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}'))
    (tmp_path / "a.py.gz").write_bytes(gzip.compress(b"x = 1"))
    assert read_documents(path) == ["one", "two"]
    assert read_documents(tmp_path) == ["x = 1", "one", "two"]


@pytest.mark.parametrize("cut", [1, 9, 15, -1])
def test_a_packed_file_that_is_damaged_is_refused(tmp_path, cut):
    path = tmp_path / "my.txt.gz"
    path.write_bytes(gzip.compress(b"a text that is long enough" * 9)[:cut])
    with pytest.raises(ValueError, match=r"my.txt.gz: expected a file compressed by gzip, got an error"):
        read_documents(path)


json_texts = st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5).filter(
    lambda found: any(map(str.strip, found))
)


@given(json_texts, st.sampled_from(["strings", "objects", "one", "lines"]), st.sampled_from([None, 2]), st.booleans())
def test_json_is_a_list_of_strings_or_of_texts_or_one_or_lines(tmp_path_factory, documents, form, indent, bom):
    objects = [{"text": document, "id": 7} for document in documents]
    if form == "one":
        documents = [document for document in documents if document.strip()][:1]
        objects = {"text": documents[0]}
    written = json.dumps(documents if form == "strings" else objects, indent=indent)
    if form == "lines":
        written = "\n".join(map(json.dumps, objects))
    path = tmp_path_factory.mktemp("json") / "my.json"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + written.encode())
    assert read_documents(path) == documents
    path.rename(path.with_suffix(".ndjson"))
    if form == "lines":
        assert read_documents(path.with_suffix(".ndjson")) == documents


@pytest.mark.parametrize("other", ['{"a": 1}', "[1, 2]", '["a", {"b": 1}]', "5", "[]", '{"text": 5}'])
def test_other_json_is_bare_text_and_that_is_said(tmp_path, other):
    path = tmp_path / "my.json"
    path.write_text(other)
    documents, account = read_with_account(path)
    assert documents == [other]
    assert account == f"{path}: read as bare text, its braces and quotes included, {len(other)} characters"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.csv", "read as bare text, its commas and quotes included"),
        ("a.HTML", "read as bare text, its tags included"),
        ("a.csv.gz", "read as bare text, its commas and quotes included"),
        ("a.txt", "read as one text, 12 characters"),
        ("a", "read as one text, 12 characters"),
    ],
)
def test_it_is_said_how_a_file_was_read(tmp_path, name, said):
    text = b"<p>a,b</p>\n\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    documents, account = read_with_account(tmp_path / name)
    assert documents == [text.decode()] and account.startswith(f"{tmp_path / name}: {said}")


@pytest.mark.parametrize("suffix", [*PROSE, *CODE])
def test_prose_and_source_code_of_a_folder_are_texts(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_text("text")
    (tmp_path / f"b{suffix.upper()}").write_text("TEXT")
    assert read_documents(tmp_path) == ["text", "TEXT"]


def test_a_folder_says_what_it_gave_and_what_it_left_out(tmp_path):
    for name in ("a.py", "b.py", "c.md", "d.png", "e.html", "LICENSE", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    documents, account = read_with_account(tmp_path)
    assert documents == ["a.py", "b.py", "c.md"]
    assert account == f"{tmp_path}: read 3 files (2 .py, 1 .md); left out 1 no suffix, 1 .png, 1 .html"
    assert read_documents(tmp_path / ".hidden.txt") == [".hidden.txt"]


def test_a_folder_of_nothing_that_is_read_names_what_it_has(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(
        ValueError, match=r"expected .txt or .md files in it, or source code, found none \(1 .png\); rename yours"
    ):
        read_documents(tmp_path)


def test_links_are_followed_and_never_in_circles(tmp_path):
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "deep" / "a.txt").write_text("A")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("B")
    (tmp_path / "texts" / "circle").symlink_to(tmp_path / "texts")
    (tmp_path / "texts" / "deep" / "up").symlink_to("..")
    (tmp_path / "texts" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "twice").symlink_to(tmp_path / "elsewhere")
    assert read_documents(tmp_path / "texts") == ["A", "B"]


@pytest.mark.parametrize("target", ["self.txt", "nowhere.txt"])
def test_a_link_to_nothing_is_refused(tmp_path, target):
    (tmp_path / "self.txt").symlink_to(target)
    for path in (tmp_path, tmp_path / "self.txt"):
        with pytest.raises(ValueError, match=r"self.txt: expected a file that can be read, got "):
            read_documents(path)


def test_pipes_sockets_devices_and_folders_are_refused_and_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        for name, kind in (
            ("pipe.txt", "a pipe"),
            ("socket.txt", "a socket"),
            (os.devnull, "a device"),
            (".", "a folder"),
        ):
            with pytest.raises(ValueError, match=f"{name}: expected a file, found {kind}; write its text to a file"):
                read_text(tmp_path / name)
    with pytest.raises(ValueError, match=r"pipe\.txt: expected a file, found a pipe"):
        read_documents(tmp_path)

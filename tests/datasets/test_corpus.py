"""Corpora: the documents are exactly the files' contents, or an error says what is wrong."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.config.loading import keys
from minillm.datasets import corpus
from minillm.datasets.corpus import Corpus, DataConfig, corpus_files, corpus_of, load_corpus, load_pairs
from minillm.datasets.examples import load_examples
from minillm.datasets.files import read_documents

WORLDS = "instructions, dialogue, arithmetic, composition, logic, safety"
KNOWN = f"stories, diary, {WORLDS}, python-docs, shakespeare, french, translation"


def load(path) -> list[str]:
    loaded = load_corpus(DataConfig(corpus=str(path)))
    assert loaded.world is None and loaded.name == str(path)
    return loaded.documents


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1).filter(str.strip))
def test_a_text_file_is_one_document_letter_by_letter(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("texts") / "my.txt"
    path.write_bytes(text.encode())
    assert load(path) == [text.removeprefix("\ufeff")]


def test_the_byte_order_mark_is_dropped_and_line_ends_become_newlines(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\nfour\r\n\r\nfive")
    assert load(path) == ["one\ntwo\nthree\nfour\n\nfive"]


def test_a_folder_is_read_in_sorted_order_with_its_subfolders_and_only_texts(tmp_path):
    for name, text in {
        "b.txt": "B",
        "a.md": "A",
        "sub/C.TXT": "C",
        "sub/deep/d.txt": "D",
        "x.png": "no",
        "blank.txt": " \n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load(tmp_path) == ["A", "B", "C", "D"]


@given(
    st.lists(st.text(st.characters(codec="utf-8")), min_size=1).filter(lambda texts: any(map(str.strip, texts))),
    st.booleans(),
)
def test_a_jsonl_file_is_one_document_a_line_letter_by_letter(tmp_path_factory, texts, ascii_only):
    path = tmp_path_factory.mktemp("texts") / "my.jsonl"
    lines = [json.dumps({"id": 3, "text": text}, ensure_ascii=ascii_only) for text in texts]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")  # blank lines between them hold nothing
    assert load(path) == texts


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("empty.txt", b"", "found nothing"),
        ("bom.txt", b"\xef\xbb\xbf", "found nothing"),
        ("blank.txt", b" \n\t\n", "found only white space"),
        ("latin1.txt", b"ab caf\xe9 cd", r"latin1.txt: expected UTF-8, found byte 0xe9 at offset 6"),
        ("bom_latin1.txt", b"\xef\xbb\xbfcaf\xe9 cd", r"found byte 0xe9 at offset 6"),
        ("cut.txt", "caf\u00e9".encode()[:-1], "found byte 0xc3 at offset 3"),
        ("image.txt", b"\x89PNG\0\0", "zero byte at offset 4"),
        ("utf16.txt", "text".encode("utf-16"), "zero byte at offset 3.*UTF-8"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": oops}\n', "a.jsonl, line 2: expected JSON"),
        ("b.jsonl", b'{"text": "fine"}\n\n{"txt": "x"}\n', 'line 3: expected an object whose "text" is a string'),
        ("c.jsonl", b'{"text": 5}', "line 1: expected an object whose"),
        ("d.jsonl", b'["text"]', "line 1: expected an object whose"),
        ("e.jsonl", b'{"text": "\\ud83d"}', "line 1: expected Unicode, found half of a surrogate pair"),
        ("f.jsonl", b"[" * 100_000, "line 1: expected JSON"),
        ("g.jsonl", b'{"text": ""}\n{"text": " "}', "found only white space"),
        ("h.jsonl", b"\n", "found nothing"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_its_place(tmp_path, name, data, sentence):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / name)


def test_a_bad_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.md").write_bytes(b"\xff\xff")
    with pytest.raises(ValueError, match=r"bad.md: expected UTF-8, found byte 0xff at offset 0"):
        load(tmp_path)


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected .txt or .md files in it, or source code, found none"):
        load(tmp_path)
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(ValueError, match="found nothing"):
        load(tmp_path)


def test_a_folder_or_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "open.txt").write_text("open")
    scan = os.scandir

    def guarded(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", guarded)
        with pytest.raises(ValueError, match="secret: expected a folder that can be read, got Permission denied"):
            load(tmp_path)

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", locked)
    with pytest.raises(ValueError, match=r"open.txt: expected a file that can be read, got Permission denied"):
        read_documents(tmp_path / "open.txt")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("storeis", f"expected {KNOWN}, or a file or folder that exists; did you mean st"),
        ("Shakespear", "did you mean shakespeare?"),
        ("nowhere/my.txt", f"expected {KNOWN}, or a file or folder that exists; check the"),
        ("", "data.corpus = '': expected stories"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name, sentence):
    with pytest.raises(ValueError) as caught:
        load_corpus(DataConfig(corpus=name))
    assert sentence in str(caught.value)


class FakeWorld:
    def __init__(self, path):
        self.path = path

    def generate(self, n_stories, seed):
        return [f"story {seed}.{i}" for i in range(n_stories)]


def test_built_in_names_win_over_files_unless_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "World", FakeWorld)
    monkeypatch.setattr(corpus, "shakespeare", lambda: "To be")
    monkeypatch.setattr(corpus, "python_docs", lambda: ["module a", "module b"])
    for name in corpus.BUILT_IN:
        (tmp_path / name).write_text("mine")
    stories = load_corpus(DataConfig(n_stories=2, seed=5))
    assert stories[:2] == ("stories", ["story 5.0", "story 5.1"]) and isinstance(stories.world, FakeWorld)
    diary = load_corpus(DataConfig(corpus="diary", n_stories=2, seed=5))
    assert (stories.world.path.name, diary.world.path.name) == ("stories.txt", "diary.txt")
    assert load_corpus(DataConfig(corpus="shakespeare")) == Corpus("shakespeare", ["To be"], None)
    assert load_corpus(DataConfig(corpus="python-docs")) == Corpus("python-docs", ["module a", "module b"], None)
    for name in corpus.BUILT_IN:
        assert load(f"./{name}") == ["mine"]


def test_a_world_of_a_mixture_may_say_how_many_exercises_it_has():
    mixed = load_corpus(DataConfig(corpus="safety:3, logic", n_exercises=2))
    assert [(part.name, len(part.documents)) for part in mixed.parts] == [("safety", 3), ("logic", 2)]
    assert load_corpus(DataConfig(corpus="safety:5")).documents[:3] == mixed.parts[0].documents
    examples = load_examples(DataConfig("safety:30,logic", n_exercises=20, val_fraction=0.1, test_fraction=0.2))
    assert [len(part) for part in examples] == [50, 5, 10]
    for wrong in ("safety:", "safety:0", "safety:-1", "safety:many", "safety:1.5"):
        for load_it in (load_corpus, load_examples):
            with pytest.raises(ValueError, match=f"^data.corpus = '{wrong}': expected a number of exercises after the"):
                load_it(DataConfig(corpus=wrong))
    with pytest.raises(ValueError, match="each once; of safety found it twice"):
        load_corpus(DataConfig(corpus="safety:3,safety:4"))


def test_french_is_the_source_of_the_translations_ten_sentences_a_document():
    config = DataConfig(corpus="french", n_pairs=23, seed=3)
    documents = load_corpus(config).documents
    assert [len(document.split("\n")) for document in documents] == [10, 10, 3]
    assert "\n".join(documents).split("\n") == [
        pair.source for pair in load_pairs(replace(config, corpus="translation"))
    ]


def test_every_field_of_the_section_explains_itself_and_knows_its_range():
    assert all(key.comment for key in keys(DataConfig))
    with pytest.raises(ValueError, match="n_stories = 0: expected"):
        DataConfig(n_stories=0)


def test_names_with_commas_between_are_one_corpus_that_knows_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "World", FakeWorld)
    monkeypatch.setattr(corpus, "python_docs", lambda: ["module a", "module b"])
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "x"}\n{"text": "y"}\n')
    mixed = load_corpus(DataConfig(corpus=f"python-docs, stories,{mine}", n_stories=2, seed=5))
    assert mixed.documents == ["module a", "module b", "story 5.0", "story 5.1", "x", "y"] and mixed.world is None
    assert [part.name for part in mixed.parts] == ["python-docs", "stories", str(mine)]
    assert [document for part in mixed.parts for document in part.documents] == mixed.documents
    assert mixed.parts[1][:2] == load_corpus(DataConfig(n_stories=2, seed=5))[:2]


def test_a_file_with_a_comma_in_its_name_is_a_file(tmp_path):
    path = tmp_path / "a,b.txt"
    path.write_text("text")
    assert load(path) == ["text"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("python-docs,storeis", "data.corpus = 'storeis': expected .*did you mean stories"),
        ("python-docs,", "data.corpus = '': expected"),
        ("python-docs,python-docs", "expected parts of many documents, each once; of python-docs found it twice"),
        ("python-docs,shakespeare", "of shakespeare found one document, which could not be split"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(name, sentence, monkeypatch):
    monkeypatch.setattr(corpus, "shakespeare", lambda: "To be")
    monkeypatch.setattr(corpus, "python_docs", lambda: ["module a", "module b"])
    with pytest.raises(ValueError, match=sentence):
        load_corpus(DataConfig(corpus=name))


@given(
    st.lists(st.text(st.characters(codec="utf-8")), max_size=9),
    st.sampled_from([list, tuple, iter, lambda t: (x for x in t)]),
)
def test_strings_that_are_at_hand_are_a_corpus_letter_by_letter(texts, kind):
    if any(map(str.strip, texts)):
        assert corpus_of(kind(texts), "mine") == Corpus("mine", texts, None)
    else:
        with pytest.raises(ValueError, match=f"texts = {len(texts)} blank strings: expected some with words"):
            corpus_of(kind(texts))


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("one text", r"texts = 'one text': expected a list of strings, .*put it in brackets"),
        (b"bytes", r"texts = b'bytes': expected a list of strings"),
        (["fine", 5], r"texts\[1\] = 5: expected a string, found int"),
        (["fine", b"x"], r"texts\[1\] = b'x': expected a string, found bytes"),
        ([None], r"texts\[0\] = None: expected a string, found NoneType"),
        (["a \ud800"], r"text\[2\] = '\\ud800': expected Unicode text"),
    ],
)
def test_what_is_no_list_of_strings_is_refused(texts, sentence):
    with pytest.raises(ValueError, match=sentence):
        corpus_of(texts)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/my.txt", "a," + "y" * 5000])
def test_a_name_that_no_file_can_have_is_refused_in_a_sentence(name):
    with pytest.raises(ValueError, match=r"data\.corpus = '.*: expected "):
        load_corpus(DataConfig(corpus=name))


def test_the_files_of_a_corpus_are_those_of_every_part_and_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    texts = tmp_path / "texts"
    for name in ("texts/b.txt", "texts/deep/a.txt", "my.txt", "one,two.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    inside = [texts / "b.txt", texts / "deep" / "a.txt"]
    assert corpus_files(str(texts)) == corpus_files("~/texts") == inside
    assert corpus_files("stories") == corpus_files("nowhere.txt") == []
    assert corpus_files(f"~/my.txt, stories,{texts}") == [tmp_path / "my.txt", *inside]
    assert corpus_files(f"{tmp_path}/one,two.txt") == [tmp_path / "one,two.txt"]

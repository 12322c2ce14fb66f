"""Python's documentation as a corpus: the same on each run, collected without running the documented code."""

import hashlib
import subprocess
import sys
import sysconfig

import pytest

from minillm.datasets import python_docs as module
from minillm.datasets.python_docs import python_docs


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return python_docs()


def test_there_are_megabytes_of_different_documents_each_a_title_and_a_text(documents):
    assert sum(len(document.encode()) for document in documents) > 1_000_000
    assert len(set(documents)) == len(documents)
    for document in documents:
        title, empty, text = document.split("\n", 2)
        assert title.strip() and not empty
        assert text.strip() + "\n" == text


@pytest.mark.parametrize(
    "beginning",
    [
        "module json\n\nJSON (JavaScript Object Notation)",
        "class json.decoder.JSONDecoder\n\n",
        "json.dumps(obj, *, skipkeys=False",
        "builtins.str.split(",
        "builtins.bytes.maketrans(frm, to, /)\n\nReturn a translation table",
        "class builtins.type\n\ntype(object) -> the object's type",
        "math.sqrt(x, /)\n\nReturn the square root of x.",
    ],
)
def test_modules_classes_functions_and_what_is_written_in_c_are_among_them(documents, beginning):
    assert any(document.startswith(beginning) for document in documents)


def test_constants_do_not_come_with_the_docstring_of_their_type(documents):
    assert not any(
        document.startswith(("datetime.date.max", "signal.SIGINT", "signal.Signals.SIGINT")) for document in documents
    )
    assert sum(document.endswith(f"\n\n{int.__doc__.strip()}\n") for document in documents) == 1


def test_private_names_and_tests_are_not_among_them(documents):
    names = [document.split("\n")[0].split("(")[0].split()[-1] for document in documents]
    assert not [name for name in names if "._" in name or name.startswith(("_", "test.", "idlelib."))]


def test_a_second_process_finds_the_same_documents_and_imports_no_module_that_acts(documents):
    code = (
        "import sys, hashlib\nfrom minillm.datasets.python_docs import python_docs\n"
        "print(hashlib.sha256(repr(python_docs()).encode()).hexdigest())\n"
        "acting = {'antigravity', 'this', 'tkinter', 'turtle', 'idlelib', 'test', 'unittest', 'site-packages'}\n"
        "print(*(acting & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digest, acted = done.stdout.split("\n")[:2]
    assert digest == hashlib.sha256(repr(documents).encode()).hexdigest()
    assert acted == ""


def test_sources_are_parsed_and_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module, "COMPILED", ["no_such_module"])
    monkeypatch.setattr(module, "_topics", list)
    files = {
        "acts.py": '"""Acts."""\nraise SystemExit("it ran")\n'
        'def f(a, *, b=2):\n    """F.\n\n    More."""\n    def inner():\n        """Hidden."""\n',
        "package/__init__.py": '"""A package."""\nclass A:\n    """An A."""\n'
        '    def m(self):\n        """M."""\n    def _p(self):\n        """P."""\n',
        "package/part.py": '"""A part."""\nasync def g():\n    r"""G \\d."""\n',
        "_private.py": '"""Private."""',
        "_folder/part.py": '"""Private, too."""',
        "site-packages/other.py": '"""Not Python\'s."""',
        "test/test_x.py": '"""A test."""',
        "package/silent.py": 'def f(): pass\ndef g():\n    " "\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert python_docs() == [
        "module acts\n\nActs.\n",
        "acts.f(a, *, b=2)\n\nF.\n\nMore.\n",
        "module package\n\nA package.\n",
        "class package.A\n\nAn A.\n",
        "package.A.m(self)\n\nM.\n",
        "module package.part\n\nA part.\n",
        "package.part.g()\n\nG \\d.\n",
    ]


def test_a_python_without_any_documents_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module, "COMPILED", [])
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="expected the standard library's sources, found none"):
        python_docs()

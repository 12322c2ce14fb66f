"""Every lesson: its form, its imports, that it runs, and that its proposed edit has the stated result."""

import ast
import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minillm.lessons.__main__ import FIELDS, ORDER, docstring, field

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "minillm" / "lessons"
LONGEST_DOCSTRING, LONGEST_BODY, SECONDS = 25, 80, 5

each_lesson = pytest.mark.parametrize("name", ORDER)


def source_of(name: str) -> str:
    return (LESSONS / f"{name}.py").read_text(encoding="utf-8")


def change(name: str) -> tuple[str, str]:
    """The source before and after the edit: lines that begin with - are removed, lines that begin with + are added."""
    taken: list[str] = []
    put: list[str] = []
    for line in field(name, "Change it:").splitlines():
        mark, text = line.strip()[0], line.strip()[2:]
        {"-": taken, "+": put}[mark].append(text)
    docstring_end = ast.parse(source_of(name)).body[0].end_lineno
    lines = source_of(name).splitlines()
    head, body = lines[:docstring_end], lines[docstring_end:]
    found = [i for i in range(len(body)) if [line.strip() for line in body[i : i + len(taken)]] == taken]
    found = found or [i for i in range(len(body)) if len(taken) == 1 and body[i].split("  #")[0].strip() == taken[0]]
    assert len(found) == 1, f"{name}: {taken} stands in {len(found)} places, expected 1"
    [at] = found
    indent = body[at][: len(body[at]) - len(body[at].lstrip())]
    changed = body[:at] + [indent + line for line in put] + body[at + len(taken) :]
    return "\n".join(head + body), "\n".join(head + changed) + "\n"


def printed(source: str) -> str:
    """The output of a lesson that runs as a script; the state of torch's generator is restored."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), torch.random.fork_rng(devices=[]):
        exec(compile(source, "lesson", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def test_the_order_names_every_lesson():
    assert sorted(ORDER) == sorted(path.stem for path in LESSONS.glob("[!_]*.py"))


@each_lesson
def test_a_lesson_is_one_page_with_every_field_in_order(name):
    found, lines = docstring(name), source_of(name).splitlines()
    n_docstring = ast.parse(source_of(name)).body[0].end_lineno
    assert n_docstring <= LONGEST_DOCSTRING and len(lines) - n_docstring <= LONGEST_BODY
    places = [found.find(f"\n{title}") for title in FIELDS]
    assert -1 not in places and places == sorted(places)
    assert found.splitlines()[0].endswith("."), "the first line defines the idea"
    for path in field(name, "Then read:").replace(",", " ").split():
        assert not path.startswith("minillm/") or (ROOT / path).exists(), path


@each_lesson
def test_a_lesson_imports_the_standard_library_torch_and_earlier_lessons(name):
    for node in ast.walk(ast.parse(source_of(name))):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.startswith("minillm"):
                other = module.removeprefix("minillm.lessons.")
                assert other in ORDER[: ORDER.index(name)], f"{name} imports {module}"
                assert other in field(name, "Read before:"), f"{name} imports {other}: say so in Read before"
            else:
                assert module.split(".")[0] in {"torch", *sys.stdlib_module_names}, f"{name} imports {module}"


@each_lesson
def test_a_lesson_runs_in_seconds_and_its_edit_shows_what_it_says(name):
    (before, after), shown = change(name), field(name, "Shown:")
    assert len(shown) >= 8, "enough to be no accident"
    began = time.process_time()
    assert shown not in printed(before)
    assert time.process_time() - began < SECONDS
    assert shown in printed(after)


def test_the_list_has_a_line_for_each_lesson():
    for words in ((), (".attention",)):
        command = [sys.executable, "-m", f"minillm.lessons{''.join(words)}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert not done.stderr and (words or [line.split()[1] for line in lines[: len(ORDER)]] == list(ORDER))

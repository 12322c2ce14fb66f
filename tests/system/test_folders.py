"""Shipped files are found; the cache folder is the user's and its size is bounded."""

import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets import tokens
from minillm.datasets.tokens import token_stream
from minillm.system import folders
from minillm.system.folders import SHIPPED, cache_folder, prune, version
from tests.datasets.test_tokens import Letters

ROOT = Path(__file__).resolve().parents[2]


def test_in_a_clone_the_files_that_ship_are_those_of_the_clone():
    assert SHIPPED == ROOT and f'version = "{version()}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_where_no_project_file_lies_the_version_is_that_of_the_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SHIPPED", tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", {"minillm": "3.5.7"}.__getitem__)
    assert version() == "3.5.7"


def homeless():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("platform", "environment", "home", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/there"}, "/home/me", "/there/minillm"),
        ("darwin", {"XDG_CACHE_HOME": "/there"}, "/home/me", "/there/minillm"),
        ("linux", {}, "/home/me", "/home/me/.cache/minillm"),
        ("linux", {"XDG_CACHE_HOME": ""}, "/home/me", "/home/me/.cache/minillm"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me", "/home/me/.cache/minillm"),
        ("linux", {"LOCALAPPDATA": "/local"}, "/home/me", "/home/me/.cache/minillm"),
        ("darwin", {}, "/home/me", "/home/me/Library/Caches/minillm"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/home/me", "/local/minillm/Cache"),
        ("win32", {}, "/home/me", "/home/me/.cache/minillm"),
        ("linux", {}, None, f"{tempfile.gettempdir()}/.cache/minillm"),
    ],
)
def test_the_cache_folder_is_where_the_platform_keeps_such_files(platform, environment, home, expected, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", homeless if home is None else lambda: Path(home))
    assert cache_folder() == Path(expected)


@given(st.lists(st.integers(0, 9), unique=True, max_size=8), st.data(), st.integers(0, 5), st.integers(0, 40))
def test_pruning_keeps_the_files_that_were_used_last_and_no_more_than_fit(
    tmp_path_factory, ages, data, n_files, n_bytes
):
    folder, sizes = tmp_path_factory.mktemp("cache"), {}
    (folder / "notes.txt").write_text("another's")
    for age in ages:
        path = folder / f"{age}.x"
        sizes[age] = data.draw(st.integers(0, 13))
        path.write_bytes(bytes(sizes[age]))
        os.utime(path, (1000 - age, 1000 - age))
    prune(folder, "*.x", n_files, n_bytes)
    kept = sorted(int(path.stem) for path in folder.glob("*.x"))
    assert (folder / "notes.txt").exists() and kept == sorted(ages)[: len(kept)]
    fits = [n for n in range(len(ages) + 1) if n <= n_files and sum(sizes[age] for age in sorted(ages)[:n]) <= n_bytes]
    assert len(kept) == max(*fits, min(1, len(ages)), 0)


def test_a_file_that_cannot_be_removed_is_left_alone(tmp_path):
    (tmp_path / "folder.x").mkdir()
    for name in ("a.x", "b.x"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / "folder.x", (2, 2))
    (tmp_path / "c.x").write_text("")
    prune(tmp_path, "*.x", 1, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.x", "folder.x"]


def test_tokens_are_kept_in_the_users_cache_folder_those_used_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tokens, "N_FILES", 3)
    often, folder = Letters(), tmp_path / "minillm" / "tokens"
    for i in range(7):
        token_stream([f"another text {i}"], Letters())
        token_stream(["a text that is used all the time"], often)
        for place, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(path, (place, place))  # clocks of file systems are coarse
    assert often.n_calls == 1 and len(list(folder.iterdir())) == 3

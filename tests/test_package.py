"""An installed package works alone: in an empty environment, from another folder, without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

from minillm import commands as console
from minillm.system.folders import version
from tests import tiny
from tests.test_cli import SMALL

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("minillm", "configs", "data", "train.py", "sample.py", "setup.py", "pyproject.toml", "README.md", "LICENSE")
ARCHIVE = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
PIP = ("--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation", "--quiet")


def start(*command, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a process that finds no other copy of the package."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=known | environment, capture_output=True, text=True)


def succeed(*command, cwd: Path, **environment: str) -> str:
    """The output of a process; AssertionError with its error output if it fails."""
    done = start(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Path:
    """The console commands of a fresh environment with this package; all other packages are those of the tests."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "clone").mkdir()
    for name in SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / "clone" / name)
    succeed(sys.executable, "-c", ARCHIVE, folder / "archive", cwd=folder / "clone")
    [archive] = (folder / "archive").iterdir()
    venv.create(folder / "venv", symlinks=os.name != "nt")
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    borrowed = "\n".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    # makes packages importable, but not what their .pth files add
    Path(sysconfig.get_path("purelib", "venv", paths), "borrowed.pth").write_text(borrowed)
    there = Path(sysconfig.get_path("scripts", "venv", paths))
    succeed(sys.executable, "-m", "pip", "--python", there / "python", "install", *PIP, archive, cwd=folder)
    return there


def test_an_installed_package_carries_every_file_and_its_version(commands, tmp_path):
    code = (
        "from minillm.system.folders import *; print(version(), SHIPPED); print(importlib.metadata.version('minillm'))"
    )
    said, known = succeed(commands / "python", "-c", code, cwd=tmp_path).splitlines()
    stated, _, shipped = said.partition(" ")
    assert stated == known == version() and Path(shipped).is_relative_to(commands.parent)
    there = {
        str(path.relative_to(shipped)) for path in Path(shipped).rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    expected = [
        path for pattern in ("configs/*.toml", "data/*.txt", "train.py", "sample.py") for path in ROOT.glob(pattern)
    ]
    assert len(expected) > 15 and there == {str(path.relative_to(ROOT)) for path in expected}
    package = Path(shipped).parent
    code = {path.relative_to(package) for path in package.rglob("*.py") if not path.is_relative_to(shipped)}
    assert code == {path.relative_to(ROOT / "minillm") for path in (ROOT / "minillm").rglob("*.py")}


@pytest.mark.slow
def test_its_commands_train_and_write_from_any_folder(commands, tmp_path):
    words, cache = tiny.flags(SMALL | {"train.max_steps": 3}), {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    said = succeed(commands / "minillm-train", "--config", "gpt-tiny", *words, cwd=tmp_path, **cache)
    assert "minillm-sample --run runs/gpt-tiny" in said and "train.py" not in said and "sample.py" not in said
    assert "run runs/gpt-tiny (step 3)" in succeed(
        commands / "minillm-sample", "--max-new-tokens", 5, cwd=tmp_path, **cache
    )
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "cache"} and list(
        (tmp_path / "cache" / "minillm" / "tokens").iterdir()
    )


@pytest.mark.slow
def test_its_commands_name_themselves_where_something_is_wrong(commands, tmp_path):
    for name, word in {"minillm-train": "--config", "minillm-sample": "--run"}.items():
        done = start(commands / name, word, "nothing", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(f"{name}: ") and "nothing: expected " in done.stderr
    told = succeed(commands / "minillm-sample", "--version", cwd=tmp_path)
    assert told.startswith(f"minillm {version()} (torch {torch.__version__}, Python ")


@pytest.mark.parametrize("name", ["train", "sample"])
def test_in_a_clone_a_command_is_the_script_and_each_is_called_as_it_was_started(name, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"/somewhere/minillm-{name}", "--nonsense"])
        with pytest.raises(SystemExit) as stopped:
            getattr(console, name)()
    assert stopped.value.code == 2 and capsys.readouterr().err.startswith(f"minillm-{name}: --nonsense: unknown flag; ")
    assert console.spelled(name) == f"python {name}.py"

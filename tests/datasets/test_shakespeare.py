"""The download of Shakespeare, without a network: complete and correct, or an error and no file."""

import hashlib
import http.client
import io
import urllib.request

import pytest

from minillm.datasets import shakespeare as module
from minillm.datasets.shakespeare import shakespeare

PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n"


@pytest.fixture
def url(tmp_path, monkeypatch) -> str:
    """A short play at a file: URL, with its hash in place of the real one."""
    (tmp_path / "server").write_text(PLAY)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    monkeypatch.setattr(module, "N_BYTES", len(PLAY))
    return (tmp_path / "server").as_uri()


def test_it_is_downloaded_once_and_then_read_from_the_disk(tmp_path, url):
    path = tmp_path / "data" / "shakespeare.txt"
    assert shakespeare(path, url) == PLAY
    assert path.read_text() == PLAY and list(path.parent.iterdir()) == [path]
    assert shakespeare(path, "file:///nowhere") == PLAY


def test_a_file_that_was_damaged_says_so_and_what_to_do(tmp_path, url):
    path = tmp_path / "shakespeare.txt"
    path.write_text(PLAY[:-1])
    sentence = rf"shakespeare.txt: the file is damaged \({len(PLAY) - 1} bytes\): expected {len(PLAY)} .*delete it"
    with pytest.raises(ValueError, match=sentence):
        shakespeare(path, url)


@pytest.mark.parametrize("wrong", [PLAY[:-1], PLAY + "!", PLAY.replace("First", "Worst"), ""])
def test_a_wrong_download_is_never_kept(tmp_path, url, wrong):
    path = tmp_path / "data" / "shakespeare.txt"
    (tmp_path / "server").write_text(wrong)
    with pytest.raises(ValueError, match=r"the download is damaged .* try again, or put the right file at"):
        shakespeare(path, url)
    assert not path.exists()


def refuse(url, timeout):
    assert timeout <= 10
    raise TimeoutError("timed out")


def break_off(url, timeout):
    answer = io.BytesIO()
    answer.read = lambda n: (_ for _ in ()).throw(http.client.IncompleteRead(b"First"))
    return answer


@pytest.mark.parametrize("opener", [refuse, break_off])
def test_without_a_network_it_says_what_to_do_instead(tmp_path, monkeypatch, opener):
    monkeypatch.setattr(urllib.request, "urlopen", opener)
    path = tmp_path / "shakespeare.txt"
    with pytest.raises(ValueError, match=r"cannot be downloaded .*shakespeare.txt by hand, or .* --data.corpus my.txt"):
        shakespeare(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path, url):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"shakespeare.txt: cannot be written .* make the folder writable"):
        shakespeare(tmp_path / "data" / "shakespeare.txt", url)


def test_the_pinned_bytes_are_those_of_the_paper_trail():
    assert module.N_BYTES == 1_115_394
    assert module.SHA256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

"""Errors of the operating system become sentences."""

import errno
import os

import pytest

from minillm.system.os_errors import ADVICE, sentence


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_names_its_path_and_no_number(number):
    for path in ("/a place/x", None):
        error = OSError(number, os.strerror(number), path)
        said = sentence(error)
        assert "Errno" not in said and "None" not in said and "\n" not in said and said.count("; ") >= 1
        assert said.startswith("/a place/x: ") == (path is not None)


@pytest.mark.parametrize(
    "number", [errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG, errno.ENOSPC, errno.EACCES]
)
def test_what_a_user_can_cause_says_what_was_expected_and_what_to_do(number):
    what, how = ADVICE[number]
    assert what.startswith(("expected", "the disk")) and how.split()[0] in ("name", "free", "shorten", "check")


def test_what_really_happens_is_what_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    causes = {
        "found a file; name another place": lambda: file.mkdir(),
        "expected folders before the last name": lambda: (file / "x").mkdir(),
        "expected a file, found a folder": lambda: tmp_path.write_text(""),
        "expected a shorter path": lambda: (tmp_path / ("x" * 999)).read_text(),
        "expected a file or folder, found none": lambda: (tmp_path / "nothing").read_text(),
    }
    for expected, cause in causes.items():
        with pytest.raises(OSError) as caught:
            cause()
        assert expected in sentence(caught.value) and str(tmp_path) in sentence(caught.value)


def test_other_errors_speak_for_themselves():
    assert sentence(ValueError("x = 1: expected 2")) == "x = 1: expected 2"
    assert sentence(OSError("a sentence of our own")) == "a sentence of our own"

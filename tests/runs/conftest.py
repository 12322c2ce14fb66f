"""A small run that was trained to its end, and a copy of it to change."""

import shutil
from pathlib import Path

import pytest

from tests.small_runs import started


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that was trained to its end."""
    return started(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def mine(finished, tmp_path):
    """A copy of that run, which a test can change; its text is not copied."""
    return Path(shutil.copytree(finished, tmp_path / "mine"))

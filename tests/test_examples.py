"""The examples in docstrings: every `>>>` under minillm/ prints what stands below it."""

import doctest
import importlib
from pathlib import Path

import pytest

import minillm

ROOT = Path(minillm.__file__).parent
MODULES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried and not failed, f"run python -m doctest on {name}"

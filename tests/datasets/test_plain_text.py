"""Laws of the normal form: normalizing is idempotent and touches nothing that can be seen."""

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.datasets.plain_text import normalize

characters = st.characters(codec="utf-8") | st.sampled_from(
    "ab \t\n\r\v\x0c\x00\x1f\x7f\x85\u00a0\u0301\u2028\u3000\ufeff.!e"
)
texts = st.text(characters, max_size=30)


@given(texts)
def test_a_normalized_text_is_in_normal_form(text):
    done = normalize(text)
    assert normalize(done) == done
    assert unicodedata.is_normalized("NFC", done)
    assert not [char for char in done if unicodedata.category(char) in ("Cc", "Zl", "Zp") and char not in "\n\t"]
    assert not [char for char in done if char.isspace() and char not in " \n\t"]
    assert not re.search(r"\n{3}|\A\n|\n\Z", done)
    assert all(line == line.rstrip(" \t") for line in done.split("\n"))


@given(texts)
def test_normalizing_touches_nothing_that_can_be_seen(text):
    def visible(text: str) -> str:
        return "".join(
            char
            for char in unicodedata.normalize("NFC", text)
            if not char.isspace() and unicodedata.category(char) != "Cc"
        )

    bare = "".join(char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    assert visible(normalize(text)) == visible(bare)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf" + "e\u0301", "caf\u00e9"),
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("e\x00\u0301", "\u00e9"),
        ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
        ("a\u00a0b\u3000c", "a b c"),
        ("def f():\n    return 1   \n\t\n\n\n\nx  y\n\n", "def f():\n    return 1\n\nx  y"),
        ("  indented", "  indented"),
        (" \n ", ""),
    ],
)
def test_normalizing_by_example(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize("char", ["1", " ", "\t", "\n", "\u00a0", "\x00"])
def test_a_long_run_of_one_character_takes_linear_time(char):
    began = time.process_time()
    done = normalize(f"a{char * 1_000_000}b")
    assert time.process_time() - began < 1
    assert done == {"1": f"a{char * 1_000_000}b", "\n": "a\n\nb", "\x00": "ab"}.get(
        char, f"a{char.replace(chr(160), ' ') * 1_000_000}b"
    )

"""Stop strings: the output is the text before the first of them, for any token boundaries."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.decoding.stopping import Cut, StopText
from minillm.tokenizers.byte import ByteTokenizer

law = settings(max_examples=400, deadline=None, derandomize=True)
pieces = st.lists(st.text("ab", max_size=4), max_size=12)
strings = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def before(text, strings):
    """The text before the first place where any string begins."""
    return text[: min((text.find(s) for s in strings if s in text), default=len(text))]


def shown(pieces, strings):
    """The texts shown after each push and after the flush."""
    cut, out = Cut(strings), [""]
    for piece in pieces:
        out.append(out[-1] + cut.push(piece))
    return [*out[1:], out[-1] + cut.flush()], cut


@law
@given(pieces, st.text("ab", min_size=1, max_size=5))
def test_one_string_cuts_like_split(pieces, string):
    assert shown(pieces, [string])[0][-1] == "".join(pieces).split(string)[0]


@law
@given(pieces, strings)
def test_of_several_strings_the_one_that_begins_first_cuts(pieces, strings):
    out, cut = shown(pieces, strings)
    text = "".join(pieces)
    assert out[-1] == before(text, strings)
    assert cut.stopped == any(s in text for s in strings)


@law
@given(pieces, strings)
def test_how_the_text_was_cut_into_pieces_does_not_matter(pieces, strings):
    assert shown(pieces, strings)[0][-1] == shown("".join(pieces), strings)[0][-1]


@law
@given(pieces, strings)
def test_nothing_is_shown_that_a_later_piece_could_take_back_and_no_more_is_held_than_that(pieces, strings):
    out, _ = shown(pieces, strings)
    for i, seen in enumerate(out[:-1]):
        text = "".join(pieces[: i + 1])
        futures = [text] + [text + s[n:] for s in strings for n in range(1, len(s)) if text.endswith(s[:n])]
        assert seen == min((before(future, strings) for future in futures), key=len)


@pytest.mark.parametrize(
    ("pieces", "strings", "after"),
    [
        (["a", "a", "b"], ["ab"], ["", "a", "a"]),  # the overlap: "aa" is not a failed "ab"
        (["x\n", "\n", "y"], ["\n\n"], ["x", "x", "x"]),
        (["us", "er:", "!"], ["user:"], ["", "", ""]),
        (["us", "age"], ["user:"], ["", "usage"]),
        (["xabc", "d"], ["abcd", "bc"], ["x", "x"]),  # "bc" is complete, "abcd" begins before it and may still come
        (["xabc", "x"], ["abcd", "bc"], ["x", "xa"]),
    ],
)
def test_what_is_shown_step_by_step(pieces, strings, after):
    assert shown(pieces, strings)[0][:-1] == after


def test_once_stopped_it_stays_silent():
    cut = Cut(["b"])
    assert [cut.push("ab"), cut.push("c"), cut.flush()] == ["a", "", ""]


@pytest.mark.parametrize("wrong", ["ab", [""], ["a", ""]])
def test_a_bare_string_and_an_empty_one_are_refused(wrong):
    with pytest.raises(ValueError, match="non-empty"):
        Cut(wrong)


@law
@given(st.text("aé€😀b", max_size=9), st.lists(st.text("é😀b", min_size=1, max_size=3), max_size=3), st.integers(0, 3))
def test_over_tokens_that_split_characters_the_same(text, strings, missing):
    tokenizer, seen = ByteTokenizer(), []
    stop = StopText(tokenizer, strings, show=seen.append)
    tokens = tokenizer.encode(text)
    tokens = tokens[: len(tokens) - missing]
    for n_read, token in enumerate(tokens, 1):
        if stop.push(token):
            assert any(s in tokenizer.decode(tokens[:n_read]) for s in strings)
            break
    assert stop.finish() == any(s in tokenizer.decode(tokens) for s in strings)
    assert stop.text == "".join(seen) == before(tokenizer.decode(tokens), strings)
    assert "" not in seen

"""Telling: pieces joined are the text, and tokens told of are those whose characters are shown."""

from hypothesis import given
from hypothesis import strategies as st

from minillm.decoding.rows import Event, judge
from minillm.serving.telling import Telling
from minillm.serving.worker import TextOrder
from tests.serving.running import BYTES

PIECES = [*"aab ", "é", "€", "😀"]
tokens = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map(lambda parts: list("".join(parts).encode())),
    st.lists(st.sampled_from([97, 98, 0xC3, 0xA9, 0xE0, 0x80, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xFF]), max_size=12),
)
stops = st.lists(st.sampled_from(["a", "ab", "aab", "é", "b ", "€a", "\ufffd", "ba"]), max_size=4)


def told(tokens, stop, eager, ends):
    """All news of a text of these tokens, and how many of them were drawn."""
    heard = []
    telling = Telling(TextOrder("", 99, stop=tuple(stop), logprobs=True, eager=eager), BYTES, heard.append)
    drawn = [*tokens, *([BYTES.end_id] if ends else [])]
    for i, token in enumerate(drawn):
        telling.hear(event := judge(0, token, -float(i), BYTES.end_id, telling, (len(drawn), "length"), i + 1))
        if event.reason:
            return heard, i + 1
    telling.hear(Event(0, None, None, "length"))  # a text that may have no token
    return heard, 0


@given(tokens=tokens, stop=stops, ends=st.booleans())
def test_a_stream_and_a_whole_text_tell_the_same_and_nothing_that_a_stop_cut_away(tokens, stop, ends):
    [whole], n_drawn = told(tokens, stop, False, ends)
    pieces, _ = told(tokens, stop, True, ends)
    assert "".join(news.text for news in pieces) == whole.text
    assert [each for news in pieces for each in news.drawn] == list(whole.drawn)
    assert pieces[-1].reason == whole.reason and all(news.reason is None for news in pieces[:-1])
    assert whole.n_drawn == pieces[-1].n_drawn == n_drawn
    full = bytes(tokens[:n_drawn]).decode(errors="replace")
    cut = min((full.find(each) for each in stop if each in full), default=len(full))
    assert whole.text == full[:cut] and (whole.reason == "stop") == (cut < len(full))
    n_told = len(whole.drawn)
    assert [each.token for each in whole.drawn] == tokens[:n_told]
    assert bytes(tokens[:n_told]).decode(errors="replace")[:cut] == whole.text
    assert whole.reason != "stop" or all(each.begin < cut for each in whole.drawn)
    shown = 0
    for news in pieces[:-1]:  # a token is told of when the text where it begins is shown, and not before
        shown += len(news.text)
        assert all(each.begin < shown for each in news.drawn)
    if n_told < len(tokens[:n_drawn]):  # the next token begins behind the text
        assert len(bytes(tokens[:n_told]).decode(errors="replace")) >= cut
    for i, each in enumerate(whole.drawn):
        assert each.begin == len(bytes(tokens[: i + 1]).decode(errors="replace")) - 1, "a byte is in the last character"


def test_a_replacement_character_that_was_written_is_one_character():
    [news], _ = told(list("\ufffd!".encode()), [], False, False)
    assert [each.begin for each in news.drawn] == [0, 0, 0, 1]


def test_a_text_without_any_token_is_told_of():
    [news], _ = told([], [], True, False)
    assert (news.text, news.drawn, news.reason, news.n_drawn) == ("", (), "length", 0)

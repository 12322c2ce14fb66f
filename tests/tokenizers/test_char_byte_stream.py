"""The character and byte tokenizers, and the streaming decoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.tokenizer import StreamDecoder


def test_the_alphabet_is_sorted_whatever_the_order_of_texts():
    assert CharTokenizer.train(["cab", "dab"]).alphabet == CharTokenizer.train(["dab", "", "cab"]).alphabet == "abcd"
    assert CharTokenizer.train(["cab"]).encode("abc") == [0, 1, 2]


def test_a_character_that_training_lacked_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"text\[3\] = 'd': expected one of the 3 characters .*'abc'; train on"):
        CharTokenizer("abc").encode("abcd")


def test_an_alphabet_with_a_character_twice_is_refused():
    with pytest.raises(ValueError, match="expected each character once"):
        CharTokenizer("aba")


@given(blob=st.binary())
def test_any_bytes_can_be_decoded_and_come_back(blob):
    assert ByteTokenizer().decode_bytes(list(blob)) == blob
    assert ByteTokenizer().decode(list(blob)) == blob.decode("utf-8", errors="replace")


@given(
    blob=st.lists(
        st.sampled_from([0x61, 0x80, 0xBF, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xED, 0xA0, 0xF0, 0x9F, 0xA6, 0x94, 0xFF, 256])
    )
)
def test_a_stream_of_broken_characters_is_replaced_as_in_the_whole(blob):
    stream = StreamDecoder(ByteTokenizer())
    assert "".join(map(stream.push, blob)) + stream.flush() == ByteTokenizer().decode(blob)


def test_half_a_character_is_kept_back_and_a_flush_begins_anew():
    stream = StreamDecoder(ByteTokenizer())
    assert [stream.push(byte) for byte in "aé€🦔".encode()] == ["a", "", "é", "", "", "€", "", "", "", "🦔"]
    assert (stream.push(0xF0), stream.flush(), stream.flush(), stream.push(0x61)) == ("", "\ufffd", "", "a")

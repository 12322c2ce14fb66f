"""Messages of a chat request: the steps before an answer, by two names, for the assistant alone."""

import re

import pytest

from minillm.serving.messages import read_messages
from minillm.tokenizers.chat import check_messages

USER, ASSISTANT = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}


@pytest.mark.parametrize("name", ["think", "reasoning_content"])
def test_steps_have_our_name_or_that_of_other_servers(name):
    messages = read_messages([USER, ASSISTANT | {name: "Two, three."}, USER])
    assert messages == [USER, ASSISTANT | {"think": "Two, three."}, USER]
    check_messages(messages)


@pytest.mark.parametrize("empty", [None, "", []])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_empty_steps_are_none(empty, role):
    found = read_messages([{"role": role, "content": "5", "think": empty, "reasoning_content": empty}])
    assert found == [{"role": role, "content": "5"}]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (USER | {"think": "a"}, "messages[1].think: expected it only beside the role assistant, found user"),
        (USER | {"role": "system", "reasoning_content": "a"}, "messages[1].reasoning_content: expected it only beside"),
        (ASSISTANT | {"think": ["a"]}, "messages[1].think = an array: expected a string"),
        (ASSISTANT | {"reasoning_content": 0}, "messages[1].reasoning_content = 0: expected a string"),
        (ASSISTANT | {"think": "a", "reasoning_content": "a"}, "expected one of think and reasoning_content"),
        (ASSISTANT | {"reasoning": "a"}, "unknown field; expected one of 4 names; did you mean reasoning_content?"),
        (ASSISTANT | {"thnk": "a"}, "messages[1].thnk: unknown field"),
    ],
)
def test_other_steps_are_refused(message, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_messages([USER, message])

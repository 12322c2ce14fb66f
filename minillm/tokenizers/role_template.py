"""The template of minillm's own chat models: one special token before each message, and one after each answer.

    END <|system|> Be brief. <|user|> Where is Anna? <|assistant|> In the garden. <|turn|> <|user|> ...

Each message is tokenized by itself, so the text before an answer is the same when the answer is asked for and when it
is history. A space comes before it, which belongs to the mark. Most vocabularies contain a word together with the space
before it, " Anna"; without the space it is split into smaller pieces, which a model can hardly copy from a story.

Rendering also tells which tokens a model should learn to write: those of every answer and the <|turn|> that ends it. So
this mask is known by construction, and never searched for in the tokens. The steps of an answer stand before it between
<think> and </think>, which are text with ids of their own. Source: ChatML (OpenAI 2023). Read before: `chat`,
`extended`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from minillm.tokenizers.chat import END_THINK, ROLES, THINK, Message, check_messages, whole_text
from minillm.tokenizers.extended import ExtendedTokenizer
from minillm.tokenizers.tokenizer import Tokenizer

MARKS = {role: f"<|{role}|>" for role in ROLES}  # before a message
TURN = "<|turn|>"  # after an answer

# the same notation in Jinja, for other libraries
JINJA = (
    "{{ eos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['think'] is defined %}{{ '<think> ' + message['think'] + '</think> ' }}{% endif %}"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ '<|turn|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Rendering(NamedTuple):
    """The tokens of a conversation."""

    tokens: list[int]
    learned: list[bool]  # for each token: whether the model should learn to write it


class RoleTemplate:
    """A `Template` for a tokenizer that has the marks; see `with_roles`."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.marks = {role: tokenizer.special_tokens[mark] for role, mark in MARKS.items()}
        self.turn = tokenizer.special_tokens[TURN]
        self.space = space_of(tokenizer)

    def render(self, messages: Sequence[Message], answer: bool = True) -> list[int]:
        """See `Template.render`."""
        return self.rendering(messages).tokens + ([self.marks["assistant"]] if answer else [])

    def rendering(self, messages: Sequence[Message]) -> Rendering:
        """The tokens of a conversation, and which of them are learned.

        Raises ValueError for no conversation, for an empty message, and for a system message that is not the first.
        """
        check_conversation(messages)
        tokens, learned = [self.tokenizer.end_id], [False]
        for message in messages:
            answers = message["role"] == "assistant"
            written = self.tokenizer.encode(self.space + whole_text(message)) + [self.turn] * answers
            tokens += [self.marks[message["role"]], *written]
            learned += [False] + [answers] * len(written)
        return Rendering(tokens, learned)


def space_of(tokenizer: Tokenizer) -> str:
    """A space; "" for a tokenizer that cannot represent it."""
    try:
        tokenizer.encode(" ")
    except ValueError:
        return ""
    return " "


def check_conversation(messages: Sequence[Message]) -> None:
    """Raise ValueError for messages that this notation cannot write."""
    check_messages(messages)
    for i, message in enumerate(messages):
        if not whole_text(message):
            raise ValueError(f"messages[{i}].content = '': expected text; leave the message out")
        if i and message["role"] == "system":
            raise ValueError(
                f"messages[{i}].role = 'system': expected the system message first, or none; move it to the beginning"
            )


def with_roles(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that has the marks of roles: this one, or this one extended. Its texts keep their ids.

    Raises ValueError for one that has only some of the marks.
    """
    marks = [*MARKS.values(), TURN]
    known = [mark for mark in marks if mark in tokenizer.special_tokens]
    if not known:
        return ExtendedTokenizer(tokenizer, marks, [THINK, END_THINK], stops=[TURN])
    if len(known) < len(marks):
        raise ValueError(
            f"tokenizer: expected all of {', '.join(marks)} or none, found {', '.join(known)}; rename them"
        )
    return tokenizer


def own_template(tokenizer: Tokenizer) -> RoleTemplate | None:
    """The template of a tokenizer that has the marks of roles; None for one without them."""
    return RoleTemplate(tokenizer) if TURN in tokenizer.special_tokens else None

"""Chat templates of other people: a conversation as ids, by the Jinja template that came with a model.

A template is a program, so it runs in a process of its own with little memory and time (`template_worker`). The
contents of messages never enter it: each is replaced by a random word (a sentinel), which the template must write once
and unchanged. The rendered text is split there; special tokens are recognized in what the template wrote; then the
contents take their places as plain text. So no content can forge a role, whatever it says. Only the whitespace around a
content and the words that the template looks for in it, such as </think>, enter as they are (`hidden_text`): so a
template may cut the reasoning out of an earlier answer. The notation is that of Hugging Face's `apply_chat_template`
(2023). Read before: `tokenizers/chat.py`, `hidden_text`.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence

from minillm.interop.hidden_text import Hidden, could_join, sought_words
from minillm.interop.template_process import TemplateProcess
from minillm.tokenizers.chat import END_THINK, ROLES, Message, check_messages, whole_text
from minillm.tokenizers.tokenizer import END, Tokenizer

N_SHOWN = 300  # characters of an error of the template that are shown
REASONING = ("reasoning_content", "think")  # names by which a template may read the steps of an answer


class JinjaTemplate:
    """A `Template` that is written in Jinja."""

    def __init__(self, source: str, tokenizer: Tokenizer, variables: Mapping[str, str] | None = None):
        """`variables`: further names that the template may use; default: `token_names(tokenizer)`.

        Nothing is rendered yet, and jinja2 is not needed yet.
        """
        self.source, self.tokenizer = source, tokenizer
        self.variables = dict(token_names(tokenizer) if variables is None else variables)
        self.roles = [*ROLES, *(["tool"] if re.search(r"""["']tool["']""", source) else [])]
        # subtle: the whitespace around a content enters the template, so no whitespace may complete a special token
        names = [name for name in tokenizer.special_tokens if name and name == name.strip()]
        ordered = sorted(names, key=len, reverse=True)
        self.specials = re.compile("(" + "|".join(map(re.escape, ordered)) + ")" if ordered else "((?!))")
        sought = sought_words(source)
        self.refused = [word for word in sought if any(could_join(word, name) for name in names)]
        self.visible = [word for word in sought if word not in self.refused]
        self.reasoning = next((x for x in REASONING if re.search(rf"""(?:\.|\[["']){x}\b""", source)), None)
        self.process = TemplateProcess()

    def render(self, messages: Sequence[Message], answer: bool = True) -> list[int]:
        """See `Template.render`. Raises ValueError too for a template that does not write each content once."""
        check_messages(messages, self.roles)
        hidden = Hidden(secrets.token_hex(16), self.visible)
        request = {"source": self.source, "variables": self.variables, "answer": answer, "secret": hidden.secret}
        found = self.process.ask(request | {"messages": [self._hide(hidden, i, m) for i, m in enumerate(messages)]})
        if "error" in found:
            raise ValueError(f"template: {_shown(hidden.masked(found['error']))}")
        written = hidden.split(found["text"])
        parts: list[str | int] = []
        for i, piece in enumerate(written):
            parts += [piece] if i % 2 else self._with_specials(piece)
        return self.tokenizer.encode_parts(joined(parts))

    def _hide(self, hidden: Hidden, i: int, message: Message) -> dict[str, str]:
        """A message as the template sees it. Raises ValueError for a text that it could turn into a special token.

        The steps of an answer have the name by which the template reads them, or stand before the content.
        """
        apart = "think" in message and self.reasoning is not None
        texts = {"content": message["content"] if apart else whole_text(message)}
        texts |= {self.reasoning: message["think"]} if apart else {}
        found = {"role": message["role"]}
        for name, text in texts.items():
            word = next((word for word in self.refused if word in text), None)
            if word is not None:
                raise ValueError(
                    f"messages[{i}].content has {word!r}, which this template looks for, and which is or could become "
                    "a special token; leave that part out"
                )
            n_optional = text.rfind(END_THINK) if message["role"] == "assistant" and END_THINK in self.visible else 0
            n_optional = len(text) if name == "reasoning_content" else n_optional
            found[name] = hidden.hide(text, n_optional, f"the content of message {i}, of the {message['role']}")
        return found

    def _with_specials(self, text: str) -> list[str | int]:
        """A text of the template, with the ids of special tokens in place of their names."""
        ids = self.tokenizer.special_tokens
        return [ids[piece] if i % 2 else piece for i, piece in enumerate(self.specials.split(text))]


def bind(source: str, variables: Mapping[str, str]) -> str:
    """A template that sets its own variables, such as `bos_token`, so that it can be kept as one text.

    >>> print(bind("{{ bos_token }}...", {"bos_token": "<s>"}))
    {% set bos_token = "<s>" %}
    {{ bos_token }}...
    """
    lines = [f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}\n" for name, value in variables.items()]
    return "".join(lines) + source


def token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and `eos_token` of a tokenizer: the names of its opening token, if it has one, and of END."""
    # subtle: an imported tokenizer may know the id of END by its own name too, and that is the one in templates
    names = {i: name for name, i in sorted(tokenizer.special_tokens.items(), key=lambda item: item[0] != END)}
    found = {"eos_token": names[tokenizer.end_id]}
    if tokenizer.opening and tokenizer.opening[0] in names:
        found["bos_token"] = names[tokenizer.opening[0]]
    return found


def joined(parts: Sequence[str | int]) -> list[str | int]:
    """Parts with all texts in a row joined, since a token may cross the border between them.

    >>> joined(["a", "b", 7, "", 8, "c"])
    ['ab', 7, 8, 'c']
    """
    found: list[str | int] = []
    for part in parts:
        if found and isinstance(part, str) and isinstance(found[-1], str):
            found[-1] += part
        elif part != "":
            found.append(part)
    return found


def _shown(error: str) -> str:
    """An error of the template, in one line and without control characters."""
    line = " ".join(error.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)
    return line if len(line) <= N_SHOWN else f"{line[:N_SHOWN]}..."

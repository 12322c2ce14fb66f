"""Chat templates of other people: a conversation as ids, by the Jinja template that came with a model.

A template is a program, so it runs in a process of its own with little memory and time (`template_worker`). The
contents of messages never enter it: each is replaced by a random word (a sentinel), which the template must write once
and unchanged. The rendered text is split there; special tokens are recognized in what the template wrote; then the
contents take their places as plain text. So no content can forge a role, whatever it says. The notation is that of
Hugging Face's `apply_chat_template` (2023). Read before: `tokenizers/chat.py`.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence

from minillm.interop.template_process import TemplateProcess
from minillm.tokenizers.chat import ROLES, Message, check_messages
from minillm.tokenizers.tokenizer import END, Tokenizer

# texts that a template looks for in a content: split('</think>'), '</think>' in content
SOUGHT = re.compile(
    r"""split\(\s*['"]([^'"]+)['"]|['"]([^'"]+)['"]\s+(?:not\s+)?in\s+(?:message(?:\.|\[['"]))?content\b"""
)
N_SHOWN = 300  # characters of an error of the template that are shown
N_TOLD = 8  # characters of a sentinel that are no coincidence


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
        self.sought = [word for pair in SOUGHT.findall(source) for word in pair if word.strip()]
        self.process = TemplateProcess()

    def render(self, messages: Sequence[Message], answer: bool = True) -> list[int]:
        """See `Template.render`. Raises ValueError too for a template that does not write each content once."""
        check_messages(messages, self.roles)
        self._refuse_sought(messages)
        secret = secrets.token_hex(16)
        hidden, contents = [], []
        for message in messages:
            before, content, after = split_whitespace(message["content"])
            sentinel = f"X{secret}x{len(contents)}X" if content else ""
            hidden.append({"role": message["role"], "content": f"{before}{sentinel}{after}"})
            contents.append(content)
        request = {"source": self.source, "variables": self.variables, "messages": hidden, "answer": answer}
        found = self.process.ask(request | {"secret": secret})
        if "error" in found:
            raise ValueError(f"template: {_shown(found['error'], secret)}")
        written = re.split(f"X{secret}x([0-9]{{1,9}})X", found["text"])  # text, number, text, number, ..., text
        _check(written[::2], list(map(int, written[1::2])), contents, messages, secret)
        parts: list[str | int] = []
        for i, piece in enumerate(written):
            parts += [contents[int(piece)]] if i % 2 else self._with_specials(piece)
        return self.tokenizer.encode_parts(joined(parts))

    def _refuse_sought(self, messages: Sequence[Message]) -> None:
        """Raise ValueError for a content with a text that the template looks for, which it could not find.

        Some templates cut the reasoning out of earlier answers, for example at "</think>".
        """
        for i, message in enumerate(messages):
            found = next((word for word in self.sought if word in message["content"]), None)
            if found is not None:
                raise ValueError(
                    f"messages[{i}].content has {found!r}, which this template treats in a way that minillm does not "
                    "know; leave that part out"
                )

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


def split_whitespace(content: str) -> tuple[str, str, str]:
    """The whitespace before a text, the text, and the whitespace after it, which a template may strip.

    >>> split_whitespace("  a b\\n"), split_whitespace(" ")
    (('  ', 'a b', '\\n'), (' ', '', ''))
    """
    kept = content.strip()
    n_before = len(content) - len(content.lstrip())
    return content[:n_before], kept, content[n_before + len(kept) :]


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


def _check(
    texts: Sequence[str], found: Sequence[int], contents: Sequence[str], messages: Sequence[Message], secret: str
) -> None:
    """Raise ValueError unless the template wrote each content once, and nothing else of the sentinels."""
    for i, content in enumerate(contents):
        n = found.count(i)
        if n != (1 if content else 0):
            raise ValueError(
                f"template: expected the content of message {i}, of the {messages[i]['role']}, once and unchanged, "
                f"found it {n} times; the template drops, repeats or rewrites it, so take another one"
            )
    rest, beginnings = "".join(texts).lower(), range(len(secret) - N_TOLD + 1)
    if len(contents) <= max(found, default=0) or any(secret[i : i + N_TOLD] in rest for i in beginnings):
        raise ValueError("template: expected contents unchanged, found a part of one; take another template")


def _shown(error: str, secret: str) -> str:
    """An error of the template, in one line without a sentinel and without control characters."""
    line = " ".join(re.sub(f"X{secret}x[0-9]+X", "...", error).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)
    return line if len(line) <= N_SHOWN else f"{line[:N_SHOWN]}..."

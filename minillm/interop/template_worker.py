"""The process that renders chat templates: it reads requests and writes answers, one JSON object a line.

A template is a program of other people. So `chat_template` runs this file as a process of its own, with an empty
environment, limited memory, processor time and output, and without minillm: only Python's library and jinja2. In the
sandbox of jinja2 a template reaches no internals of Python. Should it leave the sandbox all the same, it would have the
rights of the user, but no secrets in its environment, and little memory and time. The names that a template may use are
those of Hugging Face's `apply_chat_template` (2023). Read before: `chat_template`.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

MEMORY = 512 * 2**20  # bytes of address space
SECONDS = 2  # of processor time for one request, and of waiting for its answer
OUTPUT = 2**20  # most bytes of a rendered text
LINE = 8 * OUTPUT  # most bytes of an answer: JSON writes a byte with up to 6


def main() -> None:
    """Answer requests from stdin until it is closed."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # whatever prints, prints nothing
        os.dup2(nothing, stream)
    try:
        limit_resources()
        renderer = Renderer()
    except (ImportError, OSError, ValueError) as e:
        return send(answers, {"error": f"{e}"})
    send(answers, {"ready": True})
    for line in requests:
        limit_seconds()
        answer = respond(renderer, json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, answer)
        if "last" in answer:
            return


def send(answers: BinaryIO, answer: dict[str, Any]) -> None:
    """Write one answer."""
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def limit_resources() -> None:
    """Limit the memory; allow no new processes, no growing files and no core dumps."""
    import resource  # not on every platform

    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NPROC: 0, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":  # subtle: macOS accepts no limit of the address space; there only the time is limited
        limits[resource.RLIMIT_AS] = MEMORY
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def limit_seconds() -> None:
    """Limit the time of one request. When it is used up, the system ends the process, even if nobody waits for it."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + SECONDS, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS + 1)


def respond(renderer: "Renderer", request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request: {"text": ...} or {"error": ...}; with "last", the process ends after it."""
    try:
        return {"text": renderer.render(**request)}
    except MemoryError:
        return {"error": f"it needs more than {MEMORY // 2**20} MB of memory", "last": True}
    except RecursionError:
        return {"error": "it calls itself without an end", "last": True}
    except renderer.wrong as e:  # also of `raise_exception`
        return {"error": f"{e}"}
    except Exception as e:  # whatever a program of other people can raise
        return {"error": f"{type(e).__name__}: {e}"}


class Renderer:
    """Renders templates in a sandbox: without attributes of Python's objects, without changes of what is passed in."""

    def __init__(self):
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.wrong, self.secret = TemplateError, ""
        self.environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", generation_blocks()]
        )
        self.environment.filters["tojson"] = self.to_json
        self.environment.globals |= {"raise_exception": self.refuse, "strftime_now": strftime_now}
        self.source, self.template = "", self.environment.from_string("")

    def render(
        self, source: str, variables: dict[str, str], messages: list[dict[str, str]], answer: bool, secret: str
    ) -> str:
        """The text of a conversation; `secret` is in each content. Raises what the template raises."""
        self.secret = secret
        if source != self.source:
            self.source, self.template = source, self.environment.from_string(source)
        given = variables | {"messages": messages, "add_generation_prompt": answer, "tools": None, "documents": None}
        pieces, size = [], 0
        for piece in self.template.generate(given):
            size += len(piece.encode("utf-8", "surrogatepass"))
            if size > OUTPUT:
                self.refuse(f"it writes more than {OUTPUT // 2**20} MB")
            pieces.append(piece)
        return "".join(pieces)

    def refuse(self, message: object) -> NoReturn:
        """`raise_exception` of a template: refuse the conversation."""
        raise self.wrong(str(message))

    def to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: Sequence[str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """The filter `tojson`; that of jinja2 itself would escape HTML. It refuses contents: they are not here."""
        how = {"ensure_ascii": ensure_ascii, "indent": indent, "sort_keys": sort_keys}
        text = json.dumps(value, **how, separators=separators and tuple(separators))
        if self.secret and self.secret in text:
            self.refuse("it writes the content of a message as JSON, which is not supported")
        return text


def strftime_now(notation: str) -> str:
    """The present date or time, in the notation of `strftime`."""
    return datetime.now().strftime(notation)


def generation_blocks() -> type:
    """The extension of `{% generation %} ... {% endgeneration %}`, which marks answers for training; here no mark."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationBlocks(Extension):
        """Renders the body of the block."""

        tags = {"generation"}  # noqa: RUF012  as jinja2 declares it

        def parse(self, parser: Parser) -> nodes.Node:
            """The body, with names of its own."""
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return GenerationBlocks


if __name__ == "__main__":
    main()

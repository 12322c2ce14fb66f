"""A conversation in the terminal: read what the user types, run commands, stream the answers.

Ctrl-C ends an answer, not the conversation. Read before: `text/conversation.py`, `terminal`.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from minillm.config.fields import suggest
from minillm.config.flags import override
from minillm.console.terminal import QUOTES, interrupts, read_line, read_message, visible
from minillm.decoding.sampler import SamplingConfig
from minillm.system.atomic import write_atomically
from minillm.system.os_errors import sentence
from minillm.text.conversation import Answer, Conversation, keeps_beginnings
from minillm.tokenizers.chat import END_THINK, Message

HELP = f"""\
/system TEXT      set the system message; without TEXT: remove it
/temperature X    set the temperature; 0 always takes the most probable token
/undo             take back the last question and its answer
/retry            answer the last question again, with another seed
/save FILE        write the conversation as JSON into a new file
/help             show this list
/quit             end the chat, as Ctrl-D does
A line that ends with \\ continues on the next; {QUOTES} begins and ends a text of several lines.
Ctrl-C stops an answer. A line that begins with // is sent with one /."""
WITH_TEXT = ("system", "temperature", "save")  # commands that take a text


class Chat:
    """The chat of one user: the conversation, and the settings of its answers."""

    def __init__(
        self,
        conversation: Conversation,
        sampling: SamplingConfig,
        *,
        max_new_tokens: int,
        seed: int,
        stats: bool = False,
        read: Callable[[str], str] | None = None,
    ):
        """`seed`: of the first answer, the next has seed + 1. `read`: shows a prompt and reads a line; default: stdin.

        Raises ValueError for a template that cannot write a conversation.
        """
        self.conversation, self.sampling, self.max_new_tokens = conversation, sampling, max_new_tokens
        self.seed, self.stats, self.read, self.n_left_out = seed, stats, read or read_line, 0
        self.commands: dict[str, Callable[[str], object]] = {
            "system": self.set_system,
            "temperature": self.set_temperature,
            "undo": self.undo,
            "retry": self.retry,
            "save": self.save,
            "help": lambda rest: print(HELP),
            "quit": self.quit,
        }
        answer: Message = {"role": "assistant", "content": "Hi"}
        if END_THINK not in conversation.text.tokenizer.special_tokens:  # which no content can have
            answer["think"] = "Hm."
        turn: list[Message] = [{"role": "user", "content": "Hello"}, answer]
        if not keeps_beginnings(conversation.text.template, conversation.messages() + turn + turn):
            print("note: this template writes earlier turns anew, so parts of them are read again in each turn")

    def run(self) -> None:
        """Read and answer until the user ends the chat."""
        n_interrupts = 0
        with contextlib.suppress(EOFError):
            while True:
                try:
                    line = read_message(self.read)
                    n_interrupts = 0
                    n_interrupts = self.take(line)
                except KeyboardInterrupt:
                    n_interrupts += 1
                    print()
                    if n_interrupts > 1:
                        break
                    print("Ctrl-C again, or Ctrl-D, ends the chat")
                except ValueError as e:
                    print(e, file=sys.stderr)

    def take(self, line: str) -> bool:
        """Run a command or ask a question; whether the answer was interrupted. Raises EOFError at the end."""
        if not line.strip():
            return False
        if not line.startswith("/") or line.startswith("//"):
            return self.answer(self.conversation.ask, line.removeprefix("/") if line.startswith("//") else line)
        name, _, rest = line[1:].partition(" ")
        if name not in self.commands:
            known = [f"/{each}" for each in self.commands]
            raise ValueError(f"/{name}: unknown command; expected {suggest(f'/{name}', known)}")
        if rest.strip() and name not in WITH_TEXT:
            raise ValueError(f"/{name} {rest}: expected nothing after /{name}; leave it out")
        return bool(self.commands[name](rest.strip()))

    def answer(self, ask: Callable[..., Answer], *question: str) -> bool:
        """Stream an answer, with remarks below it; whether it was interrupted."""
        seed, self.seed = self.seed, self.seed + 1
        how = {"max_new_tokens": self.max_new_tokens, "seed": seed}
        with interrupts() as stopped:
            answer = ask(*question, self.sampling, **how, show=show, stopped=stopped)
            interrupted = stopped()
        print(flush=True)
        if interrupted:
            print("[stopped]")
        elif answer.reason in ("length", "context"):
            limit = f"--max-new-tokens {self.max_new_tokens}" if answer.reason == "length" else "the model's context"
            print(f"[cut off by {limit}]")
        if answer.n_left_out > self.n_left_out:
            turns = "turn is" if answer.n_left_out == 1 else f"{answer.n_left_out} turns are"
            print(f"[the context is full: the oldest {turns} left out from now on]")
        self.n_left_out = answer.n_left_out
        if self.stats:
            print(describe(answer))
        return interrupted

    def set_system(self, text: str) -> None:
        """/system: raises ValueError, and changes nothing, for a template without system messages."""
        before, self.conversation.system = self.conversation.system, text
        try:
            self.conversation.text.converse(self.conversation.messages("Hello"))
        except ValueError:
            self.conversation.system = before
            raise
        print("system message set" if text else "no system message")

    def set_temperature(self, text: str) -> None:
        """/temperature."""
        self.sampling = override(self.sampling, {"temperature": text}, dashes=True)
        print(f"temperature {self.sampling.temperature:g}")

    def undo(self, rest: str) -> None:
        """/undo."""
        print(f"taken back: {visible(brief(self.conversation.undo().question))}")

    def retry(self, rest: str) -> bool:
        """/retry; whether the answer was interrupted."""
        return self.answer(self.conversation.retry)

    def save(self, name: str) -> None:
        """/save: raises ValueError for a file that exists."""
        if not name or Path(name).exists():
            raise ValueError(f"/save {name}: expected the name of a new file; name another")
        text = json.dumps(self.conversation.messages(), ensure_ascii=False, indent=1)
        try:
            write_atomically(Path(name), f"{text}\n".encode())
        except OSError as e:
            raise ValueError(f"/save {name}: {sentence(e)}") from e
        print(f"saved in {name}")

    def quit(self, rest: str) -> None:
        """/quit."""
        raise EOFError


def show(piece: str) -> None:
    """Show a piece of an answer."""
    print(visible(piece), end="", flush=True)


def brief(text: str, length: int = 60) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}..."


def describe(answer: Answer) -> str:
    """The work for an answer, in one line."""
    work = answer.work
    after = work.seconds - work.first
    rate = f" at {(work.n_written - 1) / after:.1f} tokens/s" if work.n_written > 1 and after > 0 else ""
    read = f"{work.n_read:,} tokens read, {work.n_reused:,} reused"
    return f"[{read}; first token after {work.first:.2f} s; {work.n_written:,} written{rate}]"

"""Chat with a model in the terminal (python -m minillm.chat [RUN]). Default: the newest run with a chat template."""

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

from minillm.commands import spelled
from minillm.config.flags import Parser, add_flags, override
from minillm.console.chatting import Chat
from minillm.console.writing import Request, choose_seed
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.quantization.kernels import lighten
from minillm.quantization.pack import WEIGHTS
from minillm.runs import folder, wiring
from minillm.runs.folder import OpenRun
from minillm.system.os_errors import exit_status
from minillm.system.out_of_memory import memory_errors_as_value_errors
from minillm.text.conversation import Conversation
from minillm.text.model import TextModel

EXAMPLES = """\
python -m minillm.chat                                    # the newest run with a chat template
python -m minillm.chat runs/smollm2-135m --temperature 0 --stats
python -m minillm.chat --system "You answer in one sentence."
echo "What is a token?" | python -m minillm.chat --max-new-tokens 40"""
OFTEN = ["run", "system", "max_new_tokens", "seed", "temperature", "top_k", "top_p", "preset", "stats"]
N_ANSWERS = 10**6  # answers of a chat, each with its own seed
LOWER = "write less at once: lower --max-new-tokens"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and chat; return the exit status."""
    args = build_parser().parse(argv)

    def work() -> None:
        with memory_errors_as_value_errors(LOWER, limited=wiring.find_device(args.device) == "cpu"):
            go(args)

    return exit_status("chat", work)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m minillm.chat", description=__doc__, examples=EXAMPLES, often=OFTEN)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a run with a chat template")
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message; default: none")
    parser.add_argument("--max-new-tokens", metavar="N", help="most tokens of an answer; default: the run's own limit")
    parser.add_argument(
        "--seed", metavar="N", help="seed of the first answer, the next has N + 1; default: a random one, printed"
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="named sampling settings, which single flags override", metavar="NAME"
    )
    parser.add_argument(
        "--stats", action="store_true", help="tell the tokens read and reused, and the speed, after each answer"
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="format of the weights during generation; default: as they were saved"
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if available, else the CPU), cpu, cuda or mps")
    parser.add_argument("--plain", action="store_true", help="run the plain modules, without their fast twins")
    add_flags(parser, SamplingConfig, dashes=True, heading="sampling")
    return parser


def go(args: argparse.Namespace) -> None:
    """Open the run, then chat until the user ends it."""
    opened = open_run(args)
    opened.text.fast = not args.plain
    names = [field.name for field in dataclasses.fields(SamplingConfig)]
    flags = {name: value for name, value in vars(args).items() if name in names}
    sampling = override(PRESETS[args.preset] if args.preset else opened.config.sampling, flags, dashes=True)
    length = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    max_new_tokens = override(Request(), length, dashes=True).max_new_tokens or opened.config.text.max_new_tokens
    seed = choose_seed(args.seed, N_ANSWERS)
    if remark := lighten(opened.text.model, args.weights):
        print(remark)
    conversation = Conversation(opened.text, args.system)
    chat = Chat(conversation, sampling, max_new_tokens=max_new_tokens, seed=seed, stats=args.stats)
    again = "" if args.seed else f" (again: --seed {seed})"
    print(f"run {opened.path} (step {opened.step}); {opened.text.sampler(sampling, [[0]])}; seed {seed}{again}")
    print("/help lists the commands; Ctrl-D ends the chat\n", flush=True)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  edits lines and keeps a history; not on every platform
    chat.run()


def open_run(args: argparse.Namespace) -> OpenRun:
    """Load the run that the command line names. Raises ValueError for one without a chat template."""
    path = args.run or folder.newest_chat_run()
    opened = folder.open_run(path, wiring.find_device(args.device))
    if not isinstance(opened.text, TextModel) or opened.text.template is None:
        raise ValueError(
            f"{path}: expected a run with a chat template (text.template), found none; "
            f"name another, or continue a text with: {spelled('sample')} --run {path}"
        )
    return opened


if __name__ == "__main__":
    sys.exit(main())

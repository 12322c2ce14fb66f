"""Generate text with a trained model, or query an encoder. Default: the newest run in runs/, with its own settings."""

import argparse
import dataclasses
import sys
from pathlib import Path

from minillm.cache.build_cache import CacheConfig
from minillm.commands import spelled
from minillm.config.flags import Parser, add_flags, override
from minillm.console import reading, writing
from minillm.console.attention_report import refuse_attention
from minillm.console.checking import build_check
from minillm.console.flag_conflicts import refuse_what_greedy_ignores, refuse_what_would_be_ignored
from minillm.console.writing import Memory, Order, Request
from minillm.decoding.beam import BeamConfig
from minillm.decoding.best_of import BestOfConfig
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.quantization.kernels import lighten
from minillm.quantization.pack import WEIGHTS
from minillm.runs import folder, wiring
from minillm.runs.folder import OpenRun
from minillm.system.os_errors import exit_status
from minillm.system.out_of_memory import memory_errors_as_value_errors
from minillm.text.model import Prompt, TextModel

EXAMPLES = """\
python sample.py --top-p 0.9                             # a text by the newest run; prints its seed
python sample.py --top-p 0.9 --seed 481516               # the same text again
python sample.py --run runs/gpt-tiny --prompt "One day" --num-samples 3 --stream
python sample.py --preset balanced --check               # stories: is each one whole and consistent?
python sample.py --beams 4 --num-return 2                # the most probable texts that a search finds
python sample.py --chat "Who went to the lake?"          # an answer of a chat model
python sample.py --explain why.json                      # why each token was drawn
python sample.py --attention                             # what each token attends to
python sample.py --cache int4 --weights int8             # a smaller cache, smaller weights
python sample.py --fill "Once there was a clever [MASK] called Anna."   # with an encoder"""
OFTEN = [
    *("run", "prompt", "chat", "num_samples", "max_new_tokens", "seed", "temperature", "top_k", "top_p"),
    *("preset", "stop", "stream", "check"),
]
PROGRAM = spelled("sample").removeprefix("python ")
LOWER = "write less at once: lower --beams, --num-samples, --best-of or --max-new-tokens"


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and generate; return the exit status."""
    args = build_parser().parse(argv)

    def work() -> None:
        with memory_errors_as_value_errors(LOWER, limited=wiring.find_device(args.device) == "cpu"):
            go(args)

    return exit_status(PROGRAM, work)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog=PROGRAM, description=__doc__, examples=EXAMPLES.replace("python sample.py", spelled("sample")), often=OFTEN
    )
    parser.add_argument("--run", type=Path, help="folder of a run; default: the newest in runs/")
    parser.add_argument(
        "--adapter",
        metavar="RUN",
        type=Path,
        help="folder of an adapter to put on --run; then --run defaults to its base",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue; default: the run's own prompt")
    parser.add_argument("--chat", metavar="TEXT", help="with a chat model: a message to answer")
    parser.add_argument(
        "--seed",
        metavar="N",
        help="seed of the first text, the next has N + 1 and so on; default: a random one, which is printed",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help=f"named sampling settings, which single flags override: {', '.join(PRESETS)}"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; can be given several times"
    )
    parser.add_argument("--stream", action="store_true", help="show the text while it is generated")
    parser.add_argument(
        "--check", action="store_true", help="with stories: say whether each text is a whole, consistent story"
    )
    parser.add_argument(
        "--attention", action="store_true", help="show what each token attends to; for a translator, in the source"
    )
    parser.add_argument(
        "--draft",
        metavar="RUN",
        help="speculative decoding, faster: draft with a smaller run, ngram (a table) or prompt (the text itself)",
    )
    parser.add_argument(
        "--explain",
        metavar="FILE",
        nargs="?",
        const="",
        help="explain why each token was drawn; save all of it as JSON in FILE, if given",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="format of the weights during generation; default: as they were saved"
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA if available, else the CPU), cpu, cuda or mps")
    parser.add_argument("--plain", action="store_true", help="run the plain modules, without their fast twins")
    parser.add_argument("--fill", metavar="TEXT", help="with an encoder: fill in each [MASK] of a text")
    parser.add_argument(
        "--nearest", metavar="TEXT", help="with an encoder: find the sentences of --among that are most like a text"
    )
    parser.add_argument(
        "--among", type=Path, metavar="FILE", help="sentences for --nearest, one a line; default: from the run's corpus"
    )
    parser.add_argument(
        "--classify", metavar="TEXT", help="with a fine-tuned encoder: the probability of each label of a text"
    )
    headings = {
        "amount": Request,
        "sampling": SamplingConfig,
        "KV cache": CacheConfig,
        "beam search": BeamConfig,
        "best of several texts": BestOfConfig,
    }
    for heading, cls in headings.items():
        add_flags(parser, cls, dashes=True, heading=heading)
    return parser


def go(args: argparse.Namespace) -> None:
    """Generate from the parsed command line: open the run, check the flags, print the text."""
    given = {
        name: value for name, value in vars(args).items() if value is not None and value is not False and value != []
    }
    beams, best_of, request = (section(given, default) for default in (BeamConfig(), BestOfConfig(), Request()))
    opened = open_run(args)
    attention = request.attention if args.attention else None
    if not isinstance(opened.text, TextModel) or given.keys() & {*reading.ASKED, "among"}:
        return reading.answer(opened, given, attention)
    opened.text.fast = not args.plain
    refuse_what_would_be_ignored(given)
    if args.preset is not None and args.preset not in PRESETS:
        raise ValueError(f"--preset {args.preset}: expected one of {', '.join(PRESETS)}")
    sampling = section(given, PRESETS[args.preset] if args.preset else opened.config.sampling)
    n_tokens = request.max_new_tokens or opened.config.text.max_new_tokens
    if sampling.min_new_tokens > n_tokens:
        raise ValueError(
            f"--min-new-tokens = {sampling.min_new_tokens}: expected at most --max-new-tokens = {n_tokens}, where "
            "every text ends; lower one or raise the other"
        )
    if attention:
        refuse_attention(opened, attention)
    n_rows = max(request.num_samples, beams.beams, best_of.best_of)
    seed = writing.choose_seed(args.seed, n_rows)
    order = Order(
        opened,
        prompt=prompt_of(opened, args),
        sampling=sampling,
        max_new_tokens=n_tokens,
        seeds=range(seed, seed + request.num_samples),
        stop=args.stop,
        memory=Memory(
            opened.text, section(given, CacheConfig()) if given.keys() & {"cache", "cache_budget"} else None, n_rows
        ),
        check=build_check(opened.config.data.corpus) if args.check else None,
    )
    if remark := lighten(opened.text.model, args.weights):
        print(remark)
    write(order, args, beams, best_of, request, given)


def write(
    order: Order, args: argparse.Namespace, beams: BeamConfig, best_of: BestOfConfig, request: Request, given: dict
) -> None:
    """Print the settings, then generate by the chosen method."""
    opened = order.opened
    if beams.beams:
        print(f"run {opened.path} (step {opened.step}); the best of {beams.beams} beams\n", flush=True)
        return writing.by_beams(order, beams)
    sampler = opened.text.sampler(order.sampling, [order.prompt])
    greedy = refuse_what_greedy_ignores(sampler, given)
    seed = "" if greedy else f"; seed {order.seeds[0]}" + ("" if args.seed else f" (again: --seed {order.seeds[0]})")
    print(f"run {opened.path} (step {opened.step}); {sampler}{seed}\n", flush=True)
    if best_of.best_of:
        return writing.best_of(order, best_of)
    if args.explain is not None:
        return writing.explained(
            order, Path(args.explain) if args.explain else None, args.draft, request.draft_tokens, request.draft_cost
        )
    if args.draft:
        return writing.with_draft(order, args.stream, args.draft, request.draft_tokens, request.draft_cost)
    return writing.plainly(order, args.stream, request.attention if args.attention else None)


def prompt_of(opened: OpenRun, args: argparse.Namespace) -> Prompt:
    """The text to continue, or the ids of a conversation to answer. Raises ValueError for --chat without a template."""
    if args.chat is not None:
        return opened.text.converse([{"role": "user", "content": args.chat}])
    return args.prompt if args.prompt is not None else opened.config.text.prompt


def section(given: dict, default):
    """A copy of the dataclass `default` with the given flags applied."""
    return override(
        default,
        {field.name: given[field.name] for field in dataclasses.fields(default) if field.name in given},
        dashes=True,
    )


def open_run(args: argparse.Namespace) -> OpenRun:
    """Load the run that the flags name."""
    path, base = args.adapter or args.run or folder.newest_run(), args.adapter and args.run
    opened = folder.open_run(path, wiring.find_device(args.device), base)
    if args.adapter and not opened.config.adapts:
        raise ValueError(
            f"--adapter {args.adapter}: expected a run that was trained with --adapter.kind; give it as --run"
        )
    return opened


if __name__ == "__main__":
    sys.exit(main())

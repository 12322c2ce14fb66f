"""Write with a trained model: python sample.py --top-p 0.9

Takes the newest run in runs/ unless told otherwise, and starts from the sampling settings of its config. The pipeline in force is printed.
--draft, --beams, --best-of and --explain are other ways to write, --cache and --weights other ways to remember and to hold the model.
An encoder does not write: it fills in blanks (--fill), finds the sentence that is most like another (--nearest) and, fine-tuned,
tells labels (--classify).
"""

import argparse
import dataclasses
import re
import sys
from pathlib import Path

from minillm import run, run_folder, writing
from minillm.cache.build import CacheConfig
from minillm.commands import spelled
from minillm.config import Count, Positive
from minillm.datasets.corpus import load_corpus, read_text
from minillm.decoding.beam import FORBIDDING, BeamConfig
from minillm.decoding.best_of import BestOfConfig
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.flags import Parser, add_flags, override
from minillm.os_errors import sentence
from minillm.quantization.kernels import lighten
from minillm.quantization.pack import WEIGHTS
from minillm.run_folder import OpenRun
from minillm.text import Cloze, TextClassifier, TextModel, Translator
from minillm.writing import Memory, Order

PROGRAM = spelled("sample").removeprefix("python ")
N_SHOWN = 8  # candidates for a blank, or sentences
N_DOCUMENTS = 200  # of a corpus, whose sentences are searched
DRAWING = [field.name for field in dataclasses.fields(SamplingConfig) if field.name not in FORBIDDING]
USELESS = {  # beside the way that is asked for
    "beams": [*DRAWING, "preset", "seed", "num_samples", "stop", "stream", "attention", "draft", "best_of", "explain"],
    "best_of": ["stream", "attention", "draft", "explain"],
    "explain": ["num_samples", "stream", "attention"],
    "draft": ["attention"],
}
NEEDED = {  # for these flags to mean anything
    "draft_tokens": "draft",
    **dict.fromkeys(("length_penalty", "early_stopping", "num_return"), "beams"),
    **dict.fromkeys(("same_overlap", "same_n"), "best_of"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to write."""

    num_samples: Positive = 1  # texts to write, each with a seed of its own
    max_new_tokens: Count = 0  # tokens to write at most; 0: as the run's config says
    seed: Count = 0  # of the first text; the others count up
    draft_tokens: Count = 0  # beside --draft: tokens to draft at once; 0: as many as pay, by those accepted so far


def main(argv: list[str] | None = None) -> int:
    """Parse, build, go; the exit status."""
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run; default: the newest in runs/")
    parser.add_argument("--adapter", metavar="RUN", type=Path, help="folder of an adapter to put on --run; default of --run: its own base")
    parser.add_argument("--prompt", help="text to go on from; default: as the run's config says")
    parser.add_argument("--preset", help=f"named sampling settings, which single flags override: {', '.join(PRESETS)}")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    parser.add_argument("--stream", action="store_true", help="show the text as it is written")
    parser.add_argument("--attention", action="store_true", help="translators: show which word of the source each word came from")
    parser.add_argument(
        "--draft", metavar="RUN", help="write the same but faster, by guesses of a smaller run, of ngram (a table) or of prompt (the text)"
    )
    parser.add_argument(
        "--explain", metavar="FILE", nargs="?", const="", help="say why each token was drawn, and keep all of it in FILE, as JSON, if named"
    )
    parser.add_argument("--weights", choices=WEIGHTS, help="format of the weights while writing; default: as they were saved")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps")
    parser.add_argument("--fill", metavar="TEXT", help="with an encoder: what may stand in each [MASK] of a text")
    parser.add_argument("--nearest", metavar="TEXT", help="with an encoder: which sentences of --among are most like a text")
    parser.add_argument("--among", type=Path, metavar="FILE", help="sentences for --nearest, one a line; default: from the run's corpus")
    parser.add_argument("--classify", metavar="TEXT", help="with a fine-tuned encoder: the probability of each label of a text")
    for section in (Request, SamplingConfig, CacheConfig, BeamConfig, BestOfConfig):
        add_flags(parser, section, dashes=True)
    args = parser.parse(argv)
    try:
        go(args)
    except (ValueError, OSError) as e:
        print(f"{PROGRAM}: {sentence(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def go(args: argparse.Namespace) -> None:
    """Everything between the command line and the text."""
    given = {name: value for name, value in vars(args).items() if value is not None and value is not False and value != []}
    beams, best_of, request = (section(given, default) for default in (BeamConfig(), BestOfConfig(), Request()))
    opened = open_run(args)
    if not isinstance(opened.text, TextModel) or given.keys() & {"fill", "nearest", "among", "classify"}:
        return read(args, given, opened)
    refuse_what_would_be_ignored(given)
    if args.preset is not None and args.preset not in PRESETS:
        raise ValueError(f"--preset {args.preset}: expected one of {', '.join(PRESETS)}")
    sampling = section(given, PRESETS[args.preset] if args.preset else opened.config.sampling)
    prompt = args.prompt if args.prompt is not None else opened.config.text.prompt
    n_tokens = request.max_new_tokens or opened.config.text.max_new_tokens
    memory = Memory(opened.text, section(given, CacheConfig()) if given.keys() & {"cache", "cache_budget"} else None)
    order = Order(opened, prompt, sampling, n_tokens, range(request.seed, request.seed + request.num_samples), args.stop, memory)
    if said := lighten(opened.text.model, args.weights):
        print(said)
    if beams.beams:
        print(f"run {opened.path} (step {opened.step}); the best of {beams.beams} beams\n", flush=True)
        return writing.by_beams(order, beams)
    refuse_what_greedy_ignores(sampling, given)
    print(f"run {opened.path} (step {opened.step}); {opened.text.sampler(sampling, [prompt])}\n", flush=True)
    if best_of.best_of:
        return writing.best_of(order, best_of)
    if args.explain is not None:
        return writing.explained(order, Path(args.explain) if args.explain else None, args.draft, request.draft_tokens)
    if args.draft:
        return writing.with_draft(order, args.stream, args.draft, request.draft_tokens)
    if args.attention:
        refuse_attention(opened, request, args.stream)
    return writing.plainly(order, args.stream, args.attention)


def section(given: dict, default):
    """The settings of one dataclass: those that were given, and those of `default`."""
    return override(default, {field.name: given[field.name] for field in dataclasses.fields(default) if field.name in given}, dashes=True)


def open_run(args: argparse.Namespace) -> OpenRun:
    """The run that is asked for."""
    path, base = args.adapter or args.run or run_folder.newest_run(), args.adapter and args.run
    opened = run_folder.open_run(path, run.find_device(args.device), base)
    if args.adapter and not opened.config.adapter.rank:
        raise ValueError(f"--adapter {args.adapter}: expected a run that was trained with --adapter.rank; give it as --run")
    return opened


def refuse_what_would_be_ignored(given: dict) -> None:
    """Raise ValueError for flags that mean nothing beside others, or nothing without others."""
    for way, useless in USELESS.items():
        for name in useless:
            if way in given and name in given:
                raise ValueError(f"{flag(name)} would be ignored beside {flag(way)}; leave one of the two out")
    if int(given.get("best_of", 0)) and int(given.get("num_samples", 1)) > int(given["best_of"]):
        raise ValueError(f"--num-samples {given['num_samples']}: expected at most --best-of {given['best_of']}; write more or show fewer")
    for name, needed in NEEDED.items():
        if name in given and needed not in given:
            raise ValueError(f"{flag(name)} would be ignored without {flag(needed)}; give both or none")


def refuse_what_greedy_ignores(sampling: SamplingConfig, given: dict) -> None:
    """Raise ValueError for settings that cannot have an effect where the most probable token is always taken."""
    greedy = next((name for name, off in {"temperature": 0, "top_p": 0, "top_k": 1}.items() if getattr(sampling, name) == off), None)
    if greedy is None:
        return
    how = f"{flag(greedy)} {getattr(sampling, greedy):g} always takes the most probable token"
    useless = [name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed") if name in given and name != greedy]
    if useless:
        raise ValueError(f"{flag(useless[0])} would be ignored, since {how}; leave one of the two out")
    for name in ("num_samples", "best_of"):
        if int(given.get(name, 1)) > 1:
            raise ValueError(f"{flag(name)} {given[name]} would give the same text each time, since {how}; leave one of the two out")


def refuse_attention(opened: OpenRun, request: Request, stream: bool) -> None:
    """Raise ValueError where --attention has nothing to show."""
    if not isinstance(opened.text, Translator):
        raise ValueError(
            f"--attention: expected a run of a translator, and {opened.path} is a {opened.config.model.kind}; "
            "train one with train.py --config translate-tiny"
        )
    if stream or request.num_samples > 1:
        other = "--stream" if stream else f"--num-samples {request.num_samples}"
        raise ValueError(f"--attention shows one whole translation: expected no {other} beside it; leave one of the two out")


def flag(name: str) -> str:
    """As it is typed."""
    return "--" + name.replace("_", "-")


def read(args: argparse.Namespace, given: dict, opened: OpenRun) -> None:
    """What a model that does not write has to say about a text. Raises ValueError for flags that do not fit the run."""
    asked, text = [name for name in ("fill", "nearest", "among", "classify") if name in given], opened.text
    kinds = {Cloze: ["fill", "nearest"], TextClassifier: ["classify"]}
    possible = kinds.get(type(text), [])
    able = " or ".join(f"--{name} TEXT" for name in possible) or "--prompt TEXT"
    questions = [name for name in asked if name != "among"]
    if len(questions) != 1 or questions[0] not in possible:
        wrong = f"--{questions[-1]}" if questions else "no text"
        raise ValueError(f"{wrong}: expected {able} for {opened.path}, whose model.kind is {opened.config.model.kind}")
    useless = [name for name in given if name not in (*asked, "device", "run", "adapter")]
    useless += ["among"] if "among" in asked and "nearest" not in asked else []
    if useless:
        raise ValueError(f"{flag(useless[0])} would be ignored beside --{questions[0]}; leave one of the two out")
    print(f"run {opened.path} (step {opened.step})\n", flush=True)
    if args.fill is not None:
        print(text.show(args.fill, N_SHOWN))
    elif args.nearest is not None:
        for sentence, cosine in text.nearest(args.nearest, sentences(args.among, opened), N_SHOWN):
            print(f"{cosine:7.4f}  {sentence}")
    else:
        for label, probability in text.tell(args.classify).items():
            print(f"{probability:7.4f}  {label}")


def sentences(among: Path | None, opened: OpenRun) -> list[str]:
    """The lines of a file, or the sentences of the first documents of the run's corpus, each once. Raises ValueError for none."""
    if among is not None:
        found = read_text(among).split("\n")
    else:
        text = "\n".join(load_corpus(opened.config.data).documents[:N_DOCUMENTS])
        found = re.split(r'(?<=[.!?]) |(?<=[.!?]") |\n', text)
    found = list(dict.fromkeys(line.strip() for line in found if line.strip()))
    if not found:
        raise ValueError(f"--among {among}: expected sentences, one a line, found none; give a file with some")
    return found


if __name__ == "__main__":
    sys.exit(main())

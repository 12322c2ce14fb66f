"""Write with a trained model: python sample.py --top-p 0.9

Takes the newest run in runs/ unless told otherwise, and starts from the sampling settings of its config. The pipeline in force is printed.
An encoder does not write: it fills in blanks (--fill), finds the sentence that is most like another (--nearest) and, fine-tuned,
tells labels (--classify).
"""

import argparse
import dataclasses
import re
import sys
from pathlib import Path

from minillm import run
from minillm.config import Count, Parser, Positive, add_flags, override
from minillm.datasets.corpus import load_corpus, read_text
from minillm.decoding.attention_map import save_heat_maps, table
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.quantization.kernels import lighten
from minillm.quantization.pack import WEIGHTS
from minillm.text import Cloze, TextClassifier, TextCompletion, TextModel, Translator

N_SHOWN = 8  # candidates for a blank, or sentences
N_DOCUMENTS = 200  # of a corpus, whose sentences are searched


@dataclasses.dataclass(frozen=True)
class Request:
    """What to write."""

    num_samples: Positive = 1  # texts to write, each with a seed of its own
    max_new_tokens: Count = 0  # tokens to write at most; 0: as the run's config says
    seed: Count = 0  # of the first text; the others count up


def main(argv: list[str] | None = None) -> int:
    """Parse, build, go; the exit status."""
    parser = Parser(prog="sample.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run; default: the newest in runs/")
    parser.add_argument("--adapter", metavar="RUN", type=Path, help="folder of an adapter to put on --run; default of --run: its own base")
    parser.add_argument("--prompt", help="text to go on from; default: as the run's config says")
    parser.add_argument("--preset", help=f"named sampling settings, which single flags override: {', '.join(PRESETS)}")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times")
    parser.add_argument("--stream", action="store_true", help="show the text as it is written")
    parser.add_argument("--attention", action="store_true", help="translators: show which word of the source each word came from")
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps")
    parser.add_argument("--weights", choices=WEIGHTS, help="format of the weights while writing; default: as they were saved")
    parser.add_argument("--fill", metavar="TEXT", help="with an encoder: what may stand in each [MASK] of a text")
    parser.add_argument("--nearest", metavar="TEXT", help="with an encoder: which sentences of --among are most like a text")
    parser.add_argument("--among", type=Path, metavar="FILE", help="sentences for --nearest, one a line; default: from the run's corpus")
    parser.add_argument("--classify", metavar="TEXT", help="with a fine-tuned encoder: the probability of each label of a text")
    add_flags(parser, Request, dashes=True)
    add_flags(parser, SamplingConfig, dashes=True)
    args = parser.parse(argv)
    try:
        go(args)
    except (ValueError, OSError) as e:
        print(f"sample.py: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def go(args: argparse.Namespace) -> None:
    """Everything between the command line and the text."""
    given = {name: value for name, value in vars(args).items() if isinstance(value, str)}
    request = override(Request(), {name: given[name] for name in given.keys() & {f.name for f in dataclasses.fields(Request)}}, dashes=True)
    opened = run.open_run(args.adapter or args.run or run.newest_run(), run.find_device(args.device), args.adapter and args.run)
    if args.adapter and not opened.config.adapter.rank:
        raise ValueError(f"--adapter {args.adapter}: expected a run that was trained with --adapter.rank; give it as --run")
    if not isinstance(opened.text, TextModel) or read_flags(args):
        return read(args, given, opened)
    if said := lighten(opened.text.model, args.weights):
        print(said)
    if args.preset is not None and args.preset not in PRESETS:
        raise ValueError(f"--preset {args.preset}: expected one of {', '.join(PRESETS)}")
    base = PRESETS[args.preset] if args.preset else opened.config.sampling
    explicit = {name: given[name] for name in given.keys() & {f.name for f in dataclasses.fields(SamplingConfig)}}
    sampling = override(base, explicit, dashes=True)
    refuse_what_would_be_ignored(sampling, explicit, request, given)
    prompt = args.prompt if args.prompt is not None else opened.config.text.prompt
    n_tokens = request.max_new_tokens or opened.config.text.max_new_tokens
    print(f"run {opened.path} (step {opened.step}); {opened.text.sampler(sampling, [prompt])}\n", flush=True)
    if args.attention:
        refuse_attention(opened, request, args.stream)
    seeds = range(request.seed, request.seed + request.num_samples)
    if args.stream:
        for i, seed in enumerate(seeds):
            print(("\n---\n" if i else "") + prompt + opened.text.joint, end="", flush=True)
            opened.text.generate([prompt], sampling, max_new_tokens=n_tokens, seeds=[seed], stop=args.stop, show=show)
            print()
        return
    completions = opened.text.generate([prompt] * len(seeds), sampling, max_new_tokens=n_tokens, seeds=seeds, stop=args.stop)
    print("\n---\n".join(completion.prompt + opened.text.joint + completion.text for completion in completions))
    if args.attention:
        show_attention(opened, completions[0])


def read_flags(args: argparse.Namespace) -> list[str]:
    """The flags given that are for encoders."""
    return [name for name in ("fill", "nearest", "among", "classify") if getattr(args, name) is not None]


def read(args: argparse.Namespace, given: dict[str, str], opened: run.OpenRun) -> None:
    """What a model that does not write has to say about a text. Raises ValueError for flags that do not fit the run."""
    asked, text = read_flags(args), opened.text
    kinds = {Cloze: ["fill", "nearest"], TextClassifier: ["classify"]}
    possible = kinds.get(type(text), [])
    able = " or ".join(f"--{name} TEXT" for name in possible) or "--prompt TEXT"
    questions = [name for name in asked if name != "among"]
    if len(questions) != 1 or questions[0] not in possible:
        wrong = f"--{questions[-1]}" if questions else "no text"
        raise ValueError(f"{wrong}: expected {able} for {opened.path}, whose model.kind is {opened.config.model.kind}")
    useless = [name for name in given if name not in (*asked, "device")]
    useless += [name for name in ("stop", "stream", "attention") if getattr(args, name)]
    useless += ["among"] if "among" in asked and "nearest" not in asked else []
    if useless:
        raise ValueError(f"--{useless[0].replace('_', '-')} would be ignored beside --{questions[0]}; leave one of the two out")
    print(f"run {opened.path} (step {opened.step})\n", flush=True)
    if args.fill is not None:
        print(text.show(args.fill, N_SHOWN))
    elif args.nearest is not None:
        for sentence, cosine in text.nearest(args.nearest, sentences(args.among, opened), N_SHOWN):
            print(f"{cosine:7.4f}  {sentence}")
    else:
        for label, probability in text.tell(args.classify).items():
            print(f"{probability:7.4f}  {label}")


def sentences(among: Path | None, opened: run.OpenRun) -> list[str]:
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


def show(piece: str) -> None:
    """Print a piece of text at once."""
    print(piece, end="", flush=True)


def refuse_attention(opened: run.OpenRun, request: Request, stream: bool) -> None:
    """Raise ValueError where --attention has nothing to show."""
    if not isinstance(opened.text, Translator):
        raise ValueError(
            f"--attention: expected a run of a translator, and {opened.path} is a {opened.config.model.kind}; "
            "train one with train.py --config translate-tiny"
        )
    if stream or request.num_samples > 1:
        other = "--stream" if stream else f"--num-samples {request.num_samples}"
        raise ValueError(f"--attention shows one whole translation: expected no {other} beside it; leave one of the two out")


def show_attention(opened: run.OpenRun, completion: TextCompletion) -> None:
    """Print the last layer's attention to the source, and save a picture of every layer's."""
    source, target, weights = opened.text.align(completion.prompt, completion.text)
    print(f"\nwhere each word was looked for in the source (layer {len(weights)} of {len(weights)}, mean over heads):\n")
    print(table(target, source, weights[-1]))
    if save_heat_maps(target, source, weights, opened.path / "attention.png"):
        print(f"\nevery layer is drawn in {opened.path / 'attention.png'}")


def refuse_what_would_be_ignored(sampling: SamplingConfig, explicit: dict, request: Request, given: dict) -> None:
    """Raise ValueError for settings that cannot have an effect beside the others."""
    greedy = next((name for name, off in {"temperature": 0, "top_p": 0, "top_k": 1}.items() if getattr(sampling, name) == off), None)
    if greedy is None:
        return
    how = f"--{greedy.replace('_', '-')} {getattr(sampling, greedy):g} always takes the most probable token"
    useless = [name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p") if name in explicit and name != greedy]
    useless += ["seed"] if "seed" in given else []
    if useless:
        raise ValueError(f"--{useless[0].replace('_', '-')} would be ignored, since {how}; leave one of the two out")
    if request.num_samples > 1:
        raise ValueError(f"--num-samples {request.num_samples} would give the same text each time, since {how}; leave one of the two out")


if __name__ == "__main__":
    sys.exit(main())

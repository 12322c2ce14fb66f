"""Write with a trained model: python sample.py --top-p 0.9

Takes the newest run in runs/ unless told otherwise, and starts from the sampling settings of its config. The pipeline in force is printed.
An encoder does not write: it fills in blanks (--fill), finds the sentence that is most like another (--nearest) and, fine-tuned,
tells labels (--classify).
"""

import argparse
import dataclasses
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minillm import run, run_folder
from minillm.cache.build import CacheConfig, build_cache
from minillm.config import Count, Positive
from minillm.datasets.corpus import load_corpus, read_text
from minillm.decoding.attention_map import save_heat_maps, table
from minillm.decoding.drafts import Drafter, ModelDrafter
from minillm.decoding.generate import Completion, generate
from minillm.decoding.presets import PRESETS
from minillm.decoding.sampler import SamplingConfig
from minillm.decoding.speculative import Tally, expected_speed_up, speculate
from minillm.flags import Parser, add_flags, override
from minillm.models.base import State
from minillm.run_drafter import build_drafter
from minillm.run_folder import OpenRun
from minillm.text import Cloze, TextClassifier, TextCompletion, TextModel, Translator

N_SHOWN = 8  # candidates for a blank, or sentences
N_DOCUMENTS = 200  # of a corpus, whose sentences are searched
N_PLAIN = 64  # tokens that are written without a draft, to compare


@dataclasses.dataclass(frozen=True)
class Request:
    """What to write."""

    num_samples: Positive = 1  # texts to write, each with a seed of its own
    max_new_tokens: Count = 0  # tokens to write at most; 0: as the run's config says
    seed: Count = 0  # of the first text; the others count up
    draft_tokens: Count = 0  # beside --draft: tokens to draft at once; 0: as many as pay, by those accepted so far


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
    parser.add_argument(
        "--draft", metavar="RUN", help="write the same but faster, by guesses of a smaller run, of ngram (a table) or of prompt (the text)"
    )
    parser.add_argument("--device", default="auto", help="auto (CUDA where there is one, else the CPU), cpu, cuda or mps")
    parser.add_argument("--fill", metavar="TEXT", help="with an encoder: what may stand in each [MASK] of a text")
    parser.add_argument("--nearest", metavar="TEXT", help="with an encoder: which sentences of --among are most like a text")
    parser.add_argument("--among", type=Path, metavar="FILE", help="sentences for --nearest, one a line; default: from the run's corpus")
    parser.add_argument("--classify", metavar="TEXT", help="with a fine-tuned encoder: the probability of each label of a text")
    add_flags(parser, Request, dashes=True)
    add_flags(parser, SamplingConfig, dashes=True)
    add_flags(parser, CacheConfig, dashes=True)
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
    path, base = args.adapter or args.run or run_folder.newest_run(), args.adapter and args.run
    opened = run_folder.open_run(path, run.find_device(args.device), base)
    if args.adapter and not opened.config.adapter.rank:
        raise ValueError(f"--adapter {args.adapter}: expected a run that was trained with --adapter.rank; give it as --run")
    if not isinstance(opened.text, TextModel) or read_flags(args):
        return read(args, given, opened)
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
    if request.draft_tokens and not args.draft:
        raise ValueError(f"--draft-tokens {request.draft_tokens} would be ignored without --draft; give both or none")
    prompts = [prompt] * (1 if args.stream else len(seeds))  # of a batch
    start = Remembering(opened.text, given) if given.keys() & {"cache", "cache_budget"} else None
    how = {"sampling": sampling, "max_new_tokens": n_tokens, "stop": args.stop}
    drafter = build_drafter(args.draft, opened, prompts) if args.draft else None
    tallies: list[Tally] = []
    write = generate if drafter is None else writing_with(drafter, request.draft_tokens, tallies)
    began = time.perf_counter()
    if args.stream:
        for i, seed in enumerate(seeds):
            print(("\n---\n" if i else "") + prompt + opened.text.joint, end="", flush=True)
            opened.text.generate(prompts, seeds=[seed], show=show, write=write, start=start and start(prompts), **how)
            print()
    else:
        completions = opened.text.generate(prompts, seeds=seeds, write=write, start=start and start(prompts), **how)
        print("\n---\n".join(completion.prompt + opened.text.joint + completion.text for completion in completions))
    print(start or "", end="")
    if drafter is not None:
        tell_of_draft(opened.text, drafter, sum(tallies, Tally()), time.perf_counter() - began, prompts, how)
    if args.attention:
        show_attention(opened, completions[0])


def writing_with(drafter: Drafter, n_draft: int, tallies: list[Tally]) -> Callable[..., list[Completion]]:
    """`speculate` with that drafter, and what came of each row's drafts into `tallies`."""

    def write(*args: object, **how: object) -> list[Completion]:
        new = [Tally() for _ in how["generators"]]
        tallies.extend(new)
        return speculate(*args, **how, drafter=drafter, n_draft=n_draft, tallies=new)

    return write


def tell_of_draft(text: TextModel, drafter: Drafter, tally: Tally, seconds: float, prompts: list[str], how: dict) -> None:
    """Print what the draft was worth, beside short texts by the target alone, and by the draft alone, which tell its cost."""

    def seconds_per_token(alone: TextModel) -> float:
        began = time.perf_counter()
        short = how | {"max_new_tokens": min(how["max_new_tokens"], N_PLAIN)}
        written = alone.generate(prompts, seeds=range(len(prompts)), **short)
        return (time.perf_counter() - began) / max(sum(completion.n_tokens for completion in written), 1)

    plainly, cost = seconds_per_token(text), 0.0
    if isinstance(drafter, ModelDrafter):
        cost = seconds_per_token(type(text)(drafter.model, text.tokenizer, text.documents)) / plainly
    predicted = expected_speed_up(tally.acceptance, tally.mean_length, cost)
    print(
        f"\nof each call of the target: {tally.mean_length:.1f} tokens drafted, {tally.tokens_per_call:.2f} written; "
        f"{tally.acceptance:.0%} of those tested were accepted\nspeed-up: {predicted:.2f} x predicted, where a drafted token costs "
        f"{cost:.2f} calls; {plainly * tally.n_tokens / seconds:.2f} x measured"
    )
class Remembering:
    """What generation starts from, with the cache that was asked for; as a text, the bytes that it came to hold."""

    def __init__(self, text: TextModel, given: dict[str, str]):
        """Raises ValueError for a cache that cannot be had, or not with this model."""
        flags = {name: given[name] for name in given.keys() & {f.name for f in dataclasses.fields(CacheConfig)}}
        self.config = override(CacheConfig(), flags, dashes=True)
        self.text, self.cache = text, build_cache(self.config)
        self.states: list[State] = []

    def __call__(self, prompts: list[str]) -> Callable[[int], State]:
        make = self.text.start(prompts, self.cache)

        def start(batch_size: int) -> State:
            self.states.append(make(batch_size))
            return self.states[-1]

        return start

    def __str__(self) -> str:
        n_tokens, n_bytes = int(self.states[-1].lengths.sum()), self.states[-1].nbytes()
        rows = len(self.states[-1].lengths)
        return f"\n{self.config.cache} cache: {n_bytes:,} bytes held at the end, where {rows} x {n_tokens // rows} tokens had been read\n"


def read_flags(args: argparse.Namespace) -> list[str]:
    """The flags given that are for encoders."""
    return [name for name in ("fill", "nearest", "among", "classify") if getattr(args, name) is not None]


def read(args: argparse.Namespace, given: dict[str, str], opened: OpenRun) -> None:
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


def show(piece: str) -> None:
    """Print a piece of text at once."""
    print(piece, end="", flush=True)


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


def show_attention(opened: OpenRun, completion: TextCompletion) -> None:
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

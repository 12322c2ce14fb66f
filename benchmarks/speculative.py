"""The gain from speculative decoding: python -m benchmarks.speculative --run runs/gpt-target --draft runs/gpt-draft

Generates after the first words of several documents, greedily and with the run's sampling settings: with the draft,
without it, and by the draft's model alone, in turns after a warm-up, in one precision and with a KV cache. Prints
medians of tokens per second, lowest ... highest; the number of equal greedy texts (float32 may break near ties
differently; tests in float64 find no difference); and the speed-up beside the one predicted from acceptance and cost
(Leviathan et al. 2023).
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.record import record
from benchmarks.timing import ratios, span, timed
from minillm.config.flags import Parser
from minillm.datasets.corpus import load_corpus
from minillm.decoding.draft_length import MOST, Cost, Tally, expected_speed_up
from minillm.decoding.drafts import ModelDrafter
from minillm.decoding.generate import generate
from minillm.decoding.rows import Completion
from minillm.decoding.sampler import SamplingConfig
from minillm.decoding.speculative import speculate
from minillm.runs.drafter import build_drafter
from minillm.runs.folder import open_run
from minillm.text.model import TextModel
from minillm.training.precision import DTYPES

N_WORDS = 5  # words of a document in a prompt


def written(
    text: TextModel,
    prompt: str,
    sampling: SamplingConfig,
    seed: int,
    n: int,
    write: Callable[..., list[Completion]] = generate,
) -> tuple[str, float]:
    """A text, and its tokens per second."""
    [completion], seconds = timed(
        lambda: text.generate([prompt], sampling, max_new_tokens=n, seeds=[seed], write=write)
    )
    return completion.text, completion.n_tokens / seconds


def main() -> None:
    """Print a block for greedy and one for sampled text."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the target's run")
    parser.add_argument("--draft", required=True, help="the draft's run, or ngram, or prompt")
    parser.add_argument(
        "--draft-tokens", type=int, default=0, help=f"tokens to draft at once, 1 ... {MOST}; 0: the fastest number"
    )
    parser.add_argument("--max-new-tokens", type=int, default=150, help="most tokens of a text")
    parser.add_argument("--repeats", type=int, default=15, help="texts of each kind")
    parser.add_argument("--precision", choices=list(DTYPES), default="fp32", help="precision of both models")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use")
    parser.add_argument("--name", default="speculative", help="beginning of the names of the figures")
    args = parser.parse()
    torch.set_num_threads(args.threads)

    opened = open_run(args.run)
    prompts = [
        " ".join(document.split()[:N_WORDS]) for document in load_corpus(opened.config.data).documents[: args.repeats]
    ]
    drafter = build_drafter(args.draft, opened, prompts[:1])
    models = [opened.text.model, *([drafter.model] if isinstance(drafter, ModelDrafter) else [])]
    texts = [
        type(opened.text)(model.to(DTYPES[args.precision]), opened.text.tokenizer, opened.text.documents)
        for model in models
    ]
    sizes = " and ".join(f"{sum(p.numel() for p in model.parameters()):,}" for model in models)
    print(
        f"{args.threads} threads, {args.precision}, {sizes} parameters, "
        f"{args.repeats} texts of at most {args.max_new_tokens} tokens"
    )

    for name, sampling in {"greedy": SamplingConfig(temperature=0), "sampled": opened.config.sampling}.items():
        target, drafted, alone, accepted, equal, whole = [], [], [], [], 0, Tally()
        for i in range(args.repeats + 1):
            tally, ask = Tally(), (prompts[(i - 1) % len(prompts)], sampling, i, args.max_new_tokens)
            write = partial(speculate, drafter=drafter, n_draft=args.draft_tokens, tallies=[tally])
            plain, plain_rate = written(texts[0], *ask)
            ours, our_rate = written(texts[0], *ask, write=write)
            draft_rate = written(texts[1], *ask)[1] if len(texts) > 1 else float("inf")
            if i:  # the first is a warm-up
                target, drafted, alone = [*target, plain_rate], [*drafted, our_rate], [*alone, draft_rate]
                equal, whole, accepted = equal + (plain == ours), whole + tally, [*accepted, tally.acceptance]
        cost = statistics.median(target) / statistics.median(alone)
        gains = ratios(drafted, target)
        print(
            f"\n{name}: {opened.text.sampler(sampling, prompts[:1])}"
            + (f"; {equal} of {args.repeats} texts equal" * (name == "greedy"))
        )
        print(f"  tokens/s  plain {span(target, 1)}   drafted {span(drafted, 1)}")
        counts = f"{whole.mean_length:.2f} drafted and {whole.tokens_per_call:.2f} written a call"
        print(f"  accepted {whole.acceptance:.1%}, {counts}, a drafted token costs {cost:.3f} calls")
        predicted = expected_speed_up(whole.acceptance, whole.mean_length, Cost(cost))
        median = statistics.median(drafted) / statistics.median(target)
        print(
            f"  speed-up {median:.2f} x of medians, {min(gains):.2f} ... {max(gains):.2f} text by text; "
            f"predicted {predicted:.2f} x"
        )
        rows = zip(drafted, gains, accepted, strict=True)
        record(f"{args.name}-{name}", [{"tokens_per_second": a, "speed_up": b, "acceptance": c} for a, b, c in rows])


if __name__ == "__main__":
    main()

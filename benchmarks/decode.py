"""Generation of one text at a time: python -m benchmarks.decode

A GPT-2 of 4 layers x 128 with random weights and a vocabulary of 65, 0.8 million parameters, writes greedily with its
KV cache, with our `generate` and with that of transformers, with the same weights. The whole call is timed: a prompt of
16 tokens and 200 new ones.

Then the gain from the cache at 1,024 tokens. Two texts continue the same prompt, one with the cache and one that reads
everything again for every token (`use_cache=False`). Each new token is timed, the two in turns; the first one, for
which both read the whole prompt, is a warm-up, so the others come after 1,001 to 1,023 tokens.

One thread; times are CPU seconds, which other processes do not affect. First all ways must write the same in float64.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from benchmarks.gpt2 import GPT2, check_equal, twin, write
from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios
from minillm.config.flags import Parser
from minillm.decoding.generate import generate, stream
from minillm.decoding.rows import Event
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.models.decoder import Decoder
from minillm.speed.accelerate import accelerate

VOCAB = 65
GREEDY = Sampler(build_pipeline(SamplingConfig(temperature=0)))


def prompt(n: int) -> list[int]:
    """`n` tokens, the same on every call."""
    return torch.randint(VOCAB, (n,), generator=torch.Generator().manual_seed(0)).tolist()


def against_transformers(n_prompt: int, n_new: int, repeats: int) -> list[dict[str, float]]:
    """Tokens per second of both, with the prompt included."""
    model = Decoder(GPT2, VOCAB).eval()
    other, prompts = twin(model), [prompt(n_prompt)]
    roads: dict[str, Callable[[], list[list[int]]]] = {
        "ours": lambda: [
            c.tokens for c in generate(accelerate(model), prompts, GREEDY, max_new_tokens=n_new, generators=seeded([0]))
        ],
        "transformers": lambda: write(other, prompts, n_new),
    }
    check_equal([model, other], roads)
    ours, theirs = (rates(n_new, seconds) for seconds in in_turns(roads, repeats, time.process_time).values())
    names = ("tokens_per_second", "transformers_tokens_per_second", "over_transformers")
    return [dict(zip(names, row, strict=True)) for row in zip(ours, theirs, ratios(ours, theirs), strict=True)]


def against_no_cache(length: int, n_new: int) -> list[dict[str, float]]:
    """Milliseconds of each token except the first, with and without the cache, at the end of a context."""
    model = Decoder(replace(GPT2, context_length=length), VOCAB).eval()
    prompts = [prompt(length - n_new)]

    def begin(use_cache: bool) -> Iterator[list[Event]]:
        return stream(
            accelerate(model), prompts, GREEDY, max_new_tokens=n_new, generators=seeded([0]), use_cache=use_cache
        )

    ways = {"cached": True, "uncached": False}
    check_equal(
        [model], {name: lambda how=how: [events[0].token for events in begin(how)] for name, how in ways.items()}
    )
    texts = {name: begin(how) for name, how in ways.items()}
    seconds = in_turns(
        {name: lambda text=text: next(text) for name, text in texts.items()}, n_new - 1, time.process_time
    )
    rows = zip(seconds["cached"], seconds["uncached"], ratios(seconds["uncached"], seconds["cached"]), strict=True)
    return [{"cached_ms": 1000 * a, "uncached_ms": 1000 * b, "speed_up": c} for a, b, c in rows]


def main() -> None:
    """Measure both and record them."""
    parser = Parser(description=__doc__)
    parser.add_argument("--n-new", type=int, default=200, help="tokens to write beside transformers")
    parser.add_argument("--repeats", type=int, default=9, help="timed texts of each")
    parser.add_argument("--length", type=int, default=1024, help="tokens at which the cache is measured")
    parser.add_argument("--n-last", type=int, default=24, help="new tokens at that length; all but the first are timed")
    args = parser.parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record("decode", against_transformers(16, args.n_new, args.repeats))
    record("decode-cache", against_no_cache(args.length, args.n_last))


if __name__ == "__main__":
    main()

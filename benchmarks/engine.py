"""The gain from continuous batching: python -m benchmarks.engine

A GPT-2 of 4 layers x 128 with random weights and a vocabulary of 1,700 continues 32 prompts of 16 to 64 tokens greedily
with 64 new tokens each: in the engine all together, in the engine one after the other, and in the `generate` of
transformers as one left-padded batch, with the same weights. First all must write the same in float64. Then they take
turns in one process on one thread. A figure is the median of the repeats, with the lowest and the highest, in new
tokens per CPU second, which other processes do not affect; ratios are those of consecutive runs.
"""

import random
import time

import torch

from benchmarks.gpt2 import GPT2, Prompts, check_equal, twin, write
from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios, span
from minillm.config.flags import Parser
from minillm.decoding.sampler import SamplingConfig
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from minillm.models.decoder import Decoder
from minillm.speed.accelerate import accelerate

VOCAB = 1700


def serve(model: Decoder, prompts: Prompts, n_new: int, at_once: int) -> list[list[int]]:
    """Run all requests through the engine, `at_once` of them at a time."""
    engine = Engine(accelerate(model), n_pages=512, max_running=at_once, chunk=2048 if at_once > 1 else 64)
    return [c.tokens for c in engine.run([Request(prompt, n_new, SamplingConfig(temperature=0)) for prompt in prompts])]


def main() -> None:
    """Measure all ways and record the gain."""
    parser = Parser(description=__doc__)
    parser.add_argument("--n-requests", type=int, default=32, help="prompts")
    parser.add_argument("--n-new", type=int, default=64, help="tokens to write after each")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each way")
    args = parser.parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chance = random.Random(0)
    prompts = [[chance.randrange(VOCAB) for _ in range(chance.randint(16, 64))] for _ in range(args.n_requests)]

    model = Decoder(GPT2, VOCAB).eval()
    other = twin(model)
    roads = {
        "together": lambda: serve(model, prompts, args.n_new, at_once=args.n_requests),
        "one by one": lambda: serve(model, prompts, args.n_new, at_once=1),
        "transformers": lambda: write(other, prompts, args.n_new),
    }
    check_equal([model, other], roads)
    times = in_turns(roads, args.repeats, time.process_time)
    print(f"{'way':<14}{'tokens/s, median (lowest ... highest)':<42}together is faster by")
    for name, taken in times.items():
        print(
            f"{name:<14}{span(rates(args.n_requests * args.n_new, taken)):<42}"
            f"{span(ratios(taken, times['together']), 2)}"
        )
    speeds = rates(args.n_requests * args.n_new, times["together"])
    gains = [ratios(times[name], times["together"]) for name in ("one by one", "transformers")]
    rows = zip(speeds, *gains, strict=True)
    record("engine", [{"tokens_per_second": a, "over_one_by_one": b, "over_transformers": c} for a, b, c in rows])


if __name__ == "__main__":
    main()

"""Beam search compared with that of transformers: python -m benchmarks.beam

A GPT-2 of 4 layers x 128 with random weights and a vocabulary of 1,700 searches for 64 tokens after prompts of 16 to 64
tokens, with four beams, no END, and mean log probabilities as scores; transformers has the same weights and settings.
The prompts are searched one at a time, and as one batch. First both must find the same in float64. Then they take turns
in one process on one thread; times are CPU seconds, which other processes do not affect.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.gpt2 import GPT2, Prompts, check_equal, twin, write
from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios
from minillm.config.flags import Parser
from minillm.decoding.beam import BeamConfig, beam_search
from minillm.models.decoder import Decoder
from minillm.speed.accelerate import accelerate

VOCAB = 1700
# sharper distributions than with the usual weights, because transformers adds log probabilities in float32
MODEL = replace(GPT2, init_std=0.1, init_embed=0.2)
BEAMS = BeamConfig(beams=4, length_penalty=1.0, early_stopping="likely")
THEIRS = {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False}  # the same in transformers' terms


def main() -> None:
    """Measure both ways and record them."""
    parser = Parser(description=__doc__)
    parser.add_argument("--n-prompts", type=int, default=8)
    parser.add_argument("--n-new", type=int, default=64, help="tokens to write after each")
    parser.add_argument("--repeats", type=int, default=5, help="timed searches of each")
    args = parser.parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chance = random.Random(0)
    prompts = [[chance.randrange(VOCAB) for _ in range(chance.randint(16, 64))] for _ in range(args.n_prompts)]
    model = Decoder(MODEL, VOCAB).eval()
    other = twin(model)

    def ours(batch: Prompts) -> list[list[int]]:
        return [found[0].tokens for found in beam_search(accelerate(model), batch, BEAMS, max_new_tokens=args.n_new)]

    def theirs(batch: Prompts) -> list[list[int]]:
        return write(other, batch, args.n_new, **THEIRS)

    def alone(search: Callable[[Prompts], list[list[int]]]) -> list[list[int]]:
        return [text for prompt in prompts for text in search([prompt])]

    roads = {
        "ours alone": lambda: alone(ours),
        "theirs alone": lambda: alone(theirs),
        "ours together": lambda: ours(prompts),
        "theirs together": lambda: theirs(prompts),
    }
    check_equal([model, other], roads)
    times = in_turns(roads, args.repeats, time.process_time)
    for way in ("alone", "together"):
        mine, other_seconds = times[f"ours {way}"], times[f"theirs {way}"]
        speeds = rates(args.n_prompts * args.n_new, mine), rates(args.n_prompts * args.n_new, other_seconds)
        names = ("tokens_per_second", "transformers_tokens_per_second", "over_transformers")
        rows = zip(*speeds, ratios(other_seconds, mine), strict=True)
        record(f"beam-{way}", [dict(zip(names, row, strict=True)) for row in rows])


if __name__ == "__main__":
    main()

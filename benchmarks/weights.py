"""Quantized weights of a 124M GPT-2, speed and loss: python -m benchmarks.weights [--run RUN]

Random weights of GPT-2's shape (12 layers of 768, 12 heads, 50,257 tokens, tied head) generate greedily, one text at a
time, with a KV cache; float32 is left out. Every round times transformers' bfloat16 `generate` and each of ours, one
after the other, on the same prompt, so that other processes affect all of them. It prints the medians over rounds,
the median ratio of each to transformers in the same round, and the bytes of the weights. With --run: the validation
loss of a trained run, with its weights as trained and packed, on the number of batches of --batches.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpt2 import GPT2, twin, write
from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios
from minillm.config.flags import Parser
from minillm.decoding.generate import generate
from minillm.decoding.sampler import Sampler, SamplingConfig, build_pipeline, seeded
from minillm.models.decoder import Decoder
from minillm.quantization.kernels import arrange_for_kernels
from minillm.quantization.pack import WEIGHTS, pack
from minillm.quantization.packed import nbytes
from minillm.runs import folder, wiring
from minillm.speed.accelerate import accelerate

PROMPT = list(range(100, 116))
SMALL = replace(GPT2, n_layers=12, d_model=768, n_heads=12, context_length=1024)  # the smallest published size


def fresh() -> Decoder:
    """The same random weights on every call."""
    torch.manual_seed(0)
    return Decoder(SMALL, 50257).eval()


def ours(weights: str, n_tokens: int) -> tuple[Callable[[], object], int, str]:
    """Our generating function, the bytes of its weights, and its kernels."""
    model = fresh()
    pack(model, weights)
    kernels = ", ".join(arrange_for_kernels(model))
    sampler, generators = Sampler(build_pipeline(SamplingConfig(temperature=0))), seeded([0])
    return (
        lambda: generate(accelerate(model), [PROMPT], sampler, max_new_tokens=n_tokens, generators=generators),
        nbytes(model),
        kernels,
    )


def theirs(n_tokens: int) -> tuple[Callable[[], object], int, str]:
    """The same for transformers."""
    model = twin(fresh()).bfloat16()
    return lambda: write(model, [PROMPT], n_tokens), nbytes(model), "transformers"


def speed(names: list[str], n_tokens: int, n_rounds: int) -> None:
    """Print tokens per second of each, and record the ratios."""
    ways = {"theirs": theirs(n_tokens)} | {name: ours(name, n_tokens) for name in names}
    seconds = in_turns({name: way for name, (way, _, _) in ways.items()}, n_rounds)
    rows: list[dict[str, float]] = [{} for _ in range(n_rounds)]
    for name, (_, size, kernels) in ways.items():
        speeds, gains = rates(n_tokens, seconds[name]), ratios(seconds["theirs"], seconds[name])
        for row, pace, gain in zip(rows, speeds, gains, strict=True):
            row |= {f"{name}_tokens_per_second": pace} | ({} if name == "theirs" else {f"{name}_ratio": gain})
        best = min(seconds["theirs"]) / min(seconds[name])
        ratio = f"{statistics.median(gains):5.2f} x (of minima {best:5.2f})"
        print(f"{name:<7} {statistics.median(speeds):7.1f} tokens/s  {ratio}  {size / 1e6:6.1f} MB  {kernels}")
    record("weights", rows)


def quality(path: Path, n_batches: int) -> None:
    """Print a run's validation loss in each format, and record the percents. Packed weights compute in bfloat16."""
    config = folder.read_best(path)["config"]
    validation = wiring.build_validation(config, wiring.build_data(config, folder.read_best(path)["tokenizer"]))
    del validation.batches[n_batches:]
    validation.source_nats = None
    whole, percents = None, {}
    for weights in ("as trained", *WEIGHTS):
        model = folder.open_run(path).text.model
        if weights != "as trained":
            pack(model, weights)
        size = nbytes(model)
        loss = validation(model)["val_loss"]
        whole = whole or loss
        percents[f"{weights}_percent"] = 100 * (loss / whole - 1)
        print(f"{weights:<10}  {size / 1e6:8.3f} MB  loss {loss:.4f}  {100 * (loss / whole - 1):+.2f} %", flush=True)
    del percents["as trained_percent"]
    record("weights-loss", [percents])


def main() -> None:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a trained run, whose loss is measured instead of speed")
    parser.add_argument("--batches", type=int, default=16, help="batches of 64 rows, for the loss")
    parser.add_argument(
        "--weights", nargs="+", default=["bf16", "int8", "int4"], choices=WEIGHTS, help="formats to time"
    )
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a text")
    parser.add_argument("--rounds", type=int, default=9, help="repeats")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads that torch may use")
    args = parser.parse()
    torch.set_num_threads(args.threads)
    if args.run:
        quality(args.run, args.batches)
    else:
        speed(args.weights, args.tokens, args.rounds)


if __name__ == "__main__":
    main()

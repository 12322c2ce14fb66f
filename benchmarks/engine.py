"""What continuous batching is worth: python -m benchmarks.engine

A GPT-2 of 4 layers x 128 with random weights and a vocabulary of 1,700 goes on greedily from 32 prompts of 16 to 64 tokens with 64 new
tokens each: in the engine all together, in the engine one after the other, and, where transformers is installed, in its `generate` as
one batch padded on the left, with the same weights. First all of them must write the same in float64. Then they take turns in one
process on one thread; a figure is the median of the repeats, with the lowest and the highest, in new tokens per second of CPU time,
which other processes do not take away. The ratios are those of runs that followed each other.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from minillm.decoding.sampler import SamplingConfig
from minillm.engine.engine import Engine
from minillm.engine.request import Request
from minillm.models.decoder import Decoder, DecoderConfig

VOCAB = 1700
GPT2 = DecoderConfig(positions="learned", norm="layernorm", feedforward="gelu", bias=True)  # the other numbers are the defaults
Prompts = Sequence[Sequence[int]]


def serve(model: Decoder, prompts: Prompts, n_new: int, at_once: int) -> list[list[int]]:
    """Through the engine, `at_once` requests of it at a time."""
    engine = Engine(model, n_pages=512, max_running=at_once, chunk=2048 if at_once > 1 else 64)
    return [c.tokens for c in engine.run([Request(prompt, n_new, SamplingConfig(temperature=0)) for prompt in prompts])]


def theirs(model: Decoder) -> nn.Module:
    """transformers' GPT-2 with the weights of a model; its matrices stand the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    sizes = {"n_positions": c.context_length, "n_embd": c.d_model, "n_layer": c.n_layers, "n_head": c.n_heads}
    sizes |= {"vocab_size": model.vocab_size, "layer_norm_epsilon": c.norm_eps, "bos_token_id": 0, "eos_token_id": 0}
    other = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    mine = model.state_dict()
    names = {"wte.weight": "embed.weight", "wpe.weight": "embed_positions.table.weight"}
    names |= {"ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}
    weights = {f"transformer.{name}": mine[my_name] for name, my_name in names.items()}
    for i in range(c.n_layers):
        a, b = f"blocks.{i}.", f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            weights[f"{b}ln_1.{kind}"], weights[f"{b}ln_2.{kind}"] = mine[f"{a}norm_1.{kind}"], mine[f"{a}norm_2.{kind}"]
            weights[f"{b}attn.c_attn.{kind}"] = torch.cat([mine[f"{a}attention.{to}.{kind}"] for to in ("to_q", "to_k", "to_v")]).t()
            weights[f"{b}attn.c_proj.{kind}"] = mine[f"{a}attention.to_out.{kind}"].t()
            weights[f"{b}mlp.c_fc.{kind}"] = mine[f"{a}feedforward.up.{kind}"].t()
            weights[f"{b}mlp.c_proj.{kind}"] = mine[f"{a}feedforward.down.{kind}"].t()
    other.load_state_dict(weights | {"lm_head.weight": mine["head.weight"]}, strict=True)
    return other


@torch.inference_mode()
def generate(model: nn.Module, prompts: Prompts, n_new: int) -> list[list[int]]:
    """transformers' own loop."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[*[0] * (width - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[*[0] * (width - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    how = {"max_new_tokens": n_new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(tokens, attention_mask=mask, **how)[:, width:].tolist()


def seconds(roads: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each, taken in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in roads}
    for i in range(repeats + 1):
        for name, road in roads.items():
            began = time.process_time()
            road()
            if i:
                times[name].append(time.process_time() - began)
    return times


def figures(values: Sequence[float], digits: int = 0) -> str:
    """median (lowest ... highest)."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} ... {max(values):,.{digits}f})"


def main() -> None:
    """Print a row for each road."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-requests", type=int, default=32, help="prompts")
    parser.add_argument("--n-new", type=int, default=64, help="tokens to write after each")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each road")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chance = random.Random(0)
    prompts = [[chance.randrange(VOCAB) for _ in range(chance.randint(16, 64))] for _ in range(args.n_requests)]

    model = Decoder(GPT2, VOCAB).eval()
    roads = {
        "together": lambda: serve(model, prompts, args.n_new, at_once=args.n_requests),
        "one by one": lambda: serve(model, prompts, args.n_new, at_once=1),
    }
    try:
        other = theirs(model)
        roads["transformers"] = lambda: generate(other, prompts, args.n_new)
        other.double()
    except ImportError:
        print("transformers is not installed: no comparison with it")
    model.double()
    written = [road() for road in roads.values()]
    if any(tokens != written[0] for tokens in written):
        raise SystemExit("the roads write different tokens in float64: their times mean nothing")
    for one in (model, *([other] if "transformers" in roads else [])):
        one.float()

    times = seconds(roads, args.repeats)
    n = args.n_requests * args.n_new
    print(f"{'road':<14}{'tokens/s, median (lowest ... highest)':<42}together is faster by")
    for name, taken in times.items():
        faster = [a / b for a, b in zip(taken, times["together"], strict=True)]
        print(f"{name:<14}{figures([n / t for t in taken]):<42}{figures(faster, 2)}")


if __name__ == "__main__":
    main()

"""Specialization of experts, with and without load balancing: python -m benchmarks.specialization

configs/moe-tiny.toml reads documents of known sources. The same model trains on the same batches with each balancing
method; then every source's held-out documents are read, and the choices of each layer's router are counted by source:

    I(expert; source) = sum over both of p(e, s) log2 p(e, s) / (p(e) p(s))        bits, sources weighted equally

0 means that the expert is independent of the source; log2 of the number of sources, that it determines the source. A
router that uses few experts has little information, so the entropy of the load is printed too. A random router has
about 0.
"""

import math
import statistics

import torch
from torch import Tensor, nn

from benchmarks.record import record
from minillm.config.flags import Parser, override
from minillm.datasets.corpus import load_corpus
from minillm.datasets.split import split
from minillm.datasets.tokens import token_stream
from minillm.datasets.windows import evaluation_batches
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.tasks.task import Data
from minillm.training.balance import load_metrics, routers_of, watching

REMEDIES = {
    "none": {"model.balance_loss": "0", "model.router_z_loss": "0"},
    "loss": {},
    "bias": {"model.balance_loss": "0", "model.balance_rate": "0.002"},
}


def mutual_information(counts: Tensor) -> float:
    """Mutual information in bits of choices counted by source and expert, (S, E)."""
    joint = counts.double() / counts.sum(1, keepdim=True) / len(counts)  # (S, E): p(source, expert)
    independent = joint.sum(0, keepdim=True) / len(counts)  # (1, E): p(expert) p(source)
    return float(torch.special.xlogy(joint, joint / independent.clamp(min=1e-300)).sum()) / math.log(2)


@torch.inference_mode()
def choices(model: nn.Module, config: RunConfig, data: Data) -> Tensor:
    """Number of times that each layer's experts are chosen for each source's held-out documents, (L, S, E)."""
    counts = []
    for source in load_corpus(config.data).parts:
        held_out = split(source.documents, config.data.val_fraction, config.data.test_fraction).val
        batches = evaluation_batches(token_stream(held_out, data.tokenizer), config.model.context_length, 64)
        with watching(routers_of(model)) as seen:
            for batch in batches:
                model(batch.tokens)
        counts.append(torch.stack([torch.stack([r.counts for r in routings]).sum(0) for routings in seen]))  # (L, E)
    return torch.stack(counts, dim=1)


def report(name: str, counts: Tensor, loss: float) -> dict[str, float]:
    """One line for each layer; the means over layers."""
    bits = [mutual_information(of_layer) for of_layer in counts]
    loads = [load_metrics(of_layer.sum(0, keepdim=True))["load_entropy"] for of_layer in counts]
    for layer, (information, load) in enumerate(zip(bits, loads, strict=True)):
        print(
            f"{name:<8} layer {layer}  {information:.3f} bits  load entropy {load:.3f}  validation loss {loss:.4f}",
            flush=True,
        )
    return {
        f"{name}_bits": statistics.fmean(bits),
        f"{name}_load_entropy": statistics.fmean(loads),
        f"{name}_loss": loss,
    }


def main() -> None:
    """Train with each method and print the information of its experts."""
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="optimizer updates of each model")
    parser.add_argument("--corpus", help="corpora, instead of the config's: names separated by commas")
    args = parser.parse()
    more = {"data.corpus": args.corpus} if args.corpus else {}
    config = override(load_config("moe-tiny"), {"train.max_steps": str(args.steps), "train.precision": "bf16"} | more)
    data = wiring.build_data(config)
    batch = wiring.build_batches(config, data)
    print(f"{config.data.corpus}: at most {math.log2(len(config.data.corpus.split(','))):.3f} bits")
    fresh = wiring.build_model(config, data.tokenizer.vocab_size).eval()
    found = report("fresh", choices(fresh, config, data), wiring.build_validation(config, data)(fresh)["val_loss"])
    for name, flags in REMEDIES.items():
        changed = override(config, flags)
        model = wiring.build_model(changed, data.tokenizer.vocab_size)
        step = wiring.build_step(changed, model)
        for i in range(args.steps):
            step(batch(i))
        found |= report(
            name, choices(model.eval(), changed, data), wiring.build_validation(changed, data)(model)["val_loss"]
        )
    record("specialization", [found])


if __name__ == "__main__":
    main()

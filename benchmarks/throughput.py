"""Speed of training steps: python -m benchmarks.throughput

The GPT of configs/gpt-nano.toml (4 layers x 128, context 64, 12 rows, vocabulary 65), with GPT-2's biases, on random
tokens. Ours is a minillm step with AdamW, in the precision that a short trial finds faster. Theirs is transformers'
GPT-2 with the same weights and `torch.optim.AdamW`: a plain step in float32, and one with bfloat16 autocast. Ours clips
the gradient, theirs do not; all keep freed memory. They train on the same batch, in turns; first their losses must be
equal in float64.

Then the share of the machine's speed: a GPT of 10.7 million parameters (6 layers x 384, 6 heads, context 256, 8 rows)
in bfloat16. Its operations, 6 N + 12 L D T for each token with N multiplying parameters, are divided by the seconds of
a step. The bound is the rate of a large product of bfloat16 matrices, measured after every step, and that of the linear
layers' products alone.
"""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpt2 import twin
from benchmarks.record import record
from benchmarks.timing import in_turns, rates, ratios, timed
from minillm.config.flags import Parser, override
from minillm.datasets.batch import Batch
from minillm.objectives.next_token import next_token
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config
from minillm.speed.allocator import keep_freed_memory
from minillm.training.precision import seconds_per_pass
from minillm.training.profile import matmul_rate

VOCAB = 65
LARGER = {"n_layers": 6, "d_model": 384, "n_heads": 6, "context_length": 256}


def faster(config: RunConfig, vocab_size: int, batch: Batch) -> RunConfig:
    """The config in the faster precision by a short trial, as train.py chooses it."""
    seconds = seconds_per_pass(wiring.build_model(config, vocab_size), wiring.build_objective(config), batch)
    return override(config, {"train.precision": min(seconds, key=seconds.__getitem__)})


def random_batch(config: RunConfig) -> Batch:
    """Random tokens, the same on every call."""
    shape = (config.train.batch_size, config.model.context_length + 1)
    text = torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(0))
    return Batch(text[:, :-1].contiguous(), text[:, 1:].contiguous())


def their_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean nats per token of transformers' model."""
    return F.cross_entropy(model(batch.tokens, use_cache=False).logits.flatten(0, 1).float(), batch.targets.flatten())


class TheirStep:
    """The usual training step, with transformers."""

    def __init__(self, model: nn.Module, config: RunConfig, autocast: bool):
        c = config.optim
        self.model, self.autocast = model.train(), autocast
        self.optimizer = torch.optim.AdamW(model.parameters(), c.lr, (c.beta1, c.beta2), c.eps, c.weight_decay)

    def __call__(self, batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = their_loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def against_transformers(repeats: int) -> list[dict[str, float]]:
    """Tokens per second of ours and theirs."""
    config = override(load_config("gpt-nano"), {"model.bias": "true"})
    batch = random_batch(config)
    config = faster(config, VOCAB, batch)
    model = wiring.build_model(config, VOCAB)
    theirs = {name: twin(model) for name in ("fp32", "bf16")}
    loss = next_token(model.double().eval(), batch)
    if not torch.isclose(loss.total / loss.count, their_loss(theirs["fp32"].double(), batch).double(), rtol=1e-6):
        raise SystemExit("the models disagree about the loss: their times mean nothing")
    model.float(), theirs["fp32"].float()
    step = wiring.build_step(config, model)
    their_steps = {name: TheirStep(other, config, autocast=name == "bf16") for name, other in theirs.items()}
    roads = {"ours": lambda: step(batch)} | {name: lambda one=one: one(batch) for name, one in their_steps.items()}
    seconds = in_turns(roads, repeats)
    print(f"ours in {config.train.precision}, {sum(p.numel() for p in model.parameters()):,} parameters")
    speeds = {name: rates(batch.tokens.numel(), taken) for name, taken in seconds.items()}
    over = {name: ratios(seconds[name], seconds["ours"]) for name in theirs}
    names = (
        "tokens_per_second",
        "fp32_tokens_per_second",
        "bf16_tokens_per_second",
        "over_fp32",
        "over_bf16",
        "over_faster",
    )
    columns = [*speeds.values(), *over.values(), map(min, *over.values())]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class Products:
    """The matrix products of a model's linear layers in one step, forward and backward, and nothing else."""

    def __init__(self, model: nn.Module, n_tokens: int):
        shapes = [module.weight.shape for module in model.modules() if isinstance(module, nn.Linear)]
        self.operations = 6 * n_tokens * sum(d_out * d_in for d_out, d_in in shapes)
        sizes = (((n_tokens, d_in), (n_tokens, d_out), (d_out, d_in)) for d_out, d_in in shapes)
        self.parts = [[torch.randn(size).bfloat16() for size in three] for three in sizes]

    def __call__(self) -> None:
        for x, gradient, weight in self.parts:
            x @ weight.T, gradient @ weight, gradient.T @ x


def against_the_machine(repeats: int) -> list[dict[str, float]]:
    """Operations per second of a bfloat16 step, of its products alone, and of large matrix products in between."""
    sizes = {f"model.{name}": str(size) for name, size in LARGER.items()}
    config = override(load_config("gpt-nano"), {**sizes, "train.batch_size": "8", "train.precision": "bf16"})
    model, batch, c = wiring.build_model(config, VOCAB), random_batch(config), config.model
    # all parameters but positions; the tied embedding multiplies as the head
    n_multiplying = sum(p.numel() for name, p in model.named_parameters() if "positions" not in name)
    operations = batch.tokens.numel() * (6 * n_multiplying + 12 * c.n_layers * c.d_model * c.context_length)
    step, products, rows = wiring.build_step(config, model), Products(model, batch.tokens.numel()), []
    for i in range(repeats + 1):
        achieved, bound = operations / timed(lambda: step(batch))[1], matmul_rate(torch.bfloat16)
        alone = products.operations / timed(products)[1]
        if i:  # the first step warms up
            row = {
                "gflops": achieved / 1e9,
                "matmul_gflops": bound / 1e9,
                "share": achieved / bound,
                "products_share": alone / bound,
            }
            rows.append(row)
    return rows


def main() -> None:
    """Measure both and record them."""
    parser = Parser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50, help="timed steps of each at the small shape")
    parser.add_argument("--larger-repeats", type=int, default=10, help="timed steps at 10.7 million parameters")
    args = parser.parse()
    keep_freed_memory()
    record("throughput", against_transformers(args.repeats))
    record("utilization", against_the_machine(args.larger_repeats))


if __name__ == "__main__":
    main()

"""The memory of head and cross-entropy, forward and backward: python -m benchmarks.head

`linear_cross_entropy` against torch's `F.cross_entropy(F.linear(hidden, weight), targets)`: the peak of allocated
bytes, hidden states, weight and gradients included, and the milliseconds, taken in turns; --repeats 0 measures bytes
alone.
"""

import torch
import torch.nn.functional as F

from benchmarks.attention import peak_bytes
from benchmarks.record import record
from benchmarks.timing import in_turns, ratios
from minillm.config.flags import Parser
from minillm.speed.linear_cross_entropy import linear_cross_entropy


def torchs(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
    """The sum of nats, with all logits at once."""
    return (F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum"),)


def main() -> None:
    """Measure both and record the ratios."""
    parser = Parser(description=__doc__.partition("\n")[0])
    for name, default in {"vocab-size": 50_000, "d-model": 768, "tokens": 4096, "repeats": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse()
    targets = torch.randint(args.vocab_size, (args.tokens,))

    def work(loss) -> None:
        hidden = torch.randn(args.tokens, args.d_model, requires_grad=True)
        weight = torch.randn(args.vocab_size, args.d_model, requires_grad=True)
        loss(hidden, weight, targets)[0].backward()

    roads = {"ours": lambda: work(linear_cross_entropy), "torch": lambda: work(torchs)}
    ours, theirs = (peak_bytes(road) / 1e6 for road in roads.values())
    memory = {"megabytes": ours, "torch_megabytes": theirs, "memory_share": ours / theirs}
    times = in_turns(roads, args.repeats) if args.repeats else {}
    record(
        "head",
        [memory | {"speed_ratio": ratio} for ratio in ratios(times["torch"], times["ours"])] if times else [memory],
    )


if __name__ == "__main__":
    main()

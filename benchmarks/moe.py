"""A mixture of experts compared with a dense model of equal arithmetic per token: python -m benchmarks.moe

Both are built from configs/moe-tiny.toml and train on the same batches, a step of one and a step of the other in turns.
The dense model's feed-forward is as wide as the experts of one token together, so both have equally many active
parameters (without the router). Results: validation losses at the end, and the median and quartiles of the ratio of the
two times over all steps.
"""

import statistics

from benchmarks.record import record
from benchmarks.throughput import faster
from benchmarks.timing import ratios, timed
from minillm.config.flags import Parser, override
from minillm.models.decoder import ROUTING, DecoderConfig
from minillm.runs import wiring
from minillm.runs.config import RunConfig, load_config


def pair(config: RunConfig) -> dict[str, RunConfig]:
    """The mixture and its dense counterpart."""
    model = config.model
    width = model.d_ff * (model.n_experts_per_token + model.n_shared_experts)
    defaults = {f"model.{name}": str(getattr(DecoderConfig, name)) for name in ROUTING}
    return {"experts": config, "dense": override(config, defaults | {"model.n_experts": "0", "model.d_ff": str(width)})}


def race(config: RunConfig) -> dict[str, float]:
    """Train both on the same batches, in turns: validation losses, and quartiles of the ratio of times."""
    data = wiring.build_data(config)
    batch, vocab_size = wiring.build_batches(config, data), data.tokenizer.vocab_size
    configs = pair(faster(config, vocab_size, batch(0)))
    models = {name: wiring.build_model(c, vocab_size) for name, c in configs.items()}
    steps = {name: wiring.build_step(c, models[name]) for name, c in configs.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(config.train.max_steps):
        now = batch(i)
        for name, step in steps.items():
            metrics, seconds = timed(lambda step=step, now=now: step(now))
            times[name].append(seconds)
            if (i + 1) % 100 == 0:
                print(
                    f"step {i + 1:>5}  {name:<8}",
                    "  ".join(f"{key} {value:.3f}" for key, value in metrics.items()),
                    flush=True,
                )
    losses = {f"{name}_loss": wiring.build_validation(c, data)(models[name])["val_loss"] for name, c in configs.items()}
    low, middle, high = statistics.quantiles(ratios(times["experts"][5:], times["dense"][5:]), n=4)
    return losses | {"time_ratio": middle, "time_ratio_lower_quartile": low, "time_ratio_upper_quartile": high}


def main() -> None:
    """Train both with each seed and record the results."""
    parser = Parser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="optimizer updates of each, more than ten")
    parser.add_argument(
        "--seeds", type=int, default=1, help="repeats, each with other weights and another order of the batches"
    )
    parser.add_argument("--corpus", help="corpus, instead of the config's")
    args = parser.parse()
    flags = {"train.max_steps": str(args.steps)} | ({"data.corpus": args.corpus} if args.corpus else {})
    config = override(load_config("moe-tiny"), flags)
    record("moe", [race(override(config, {"train.seed": str(seed)})) for seed in range(args.seeds)])


if __name__ == "__main__":
    main()

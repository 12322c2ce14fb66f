"""Save a run with its weights packed (python -m minillm.quantize RUN --weights int4 --out DIR).

The new folder is a run to write with (sample.py --run DIR): a checkpoint as large as its weights are now, which cannot be trained
on. An adapter is merged into its base first. --calibrate looks at some training text and scales weights before they are rounded.
"""

import sys
from dataclasses import replace
from pathlib import Path

from minillm.adapters.lora import AdapterConfig, merge
from minillm.config import to_toml
from minillm.flags import Parser
from minillm.models.decoder import Decoder
from minillm.os_errors import sentence
from minillm.quantization.awq import calibrate
from minillm.quantization.pack import WEIGHTS, pack
from minillm.quantization.packed import nbytes
from minillm.run import build_batches, build_data
from minillm.run_config import RunConfig
from minillm.run_folder import open_run, read_best, write_readable
from minillm.training import checkpoint


def main(argv: list[str] | None = None) -> int:
    """Parse, pack, save; the exit status."""
    parser = Parser(prog="python -m minillm.quantize", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--weights", choices=WEIGHTS, required=True, help="the format")
    parser.add_argument("--group", type=int, help="inputs that share a scale, in int4 and nf4; default: 64")
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="N", help="batches of training text to calibrate on; 0: none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")
    args = parser.parse(argv)
    try:
        print(save(args.run, args.weights, args.out, args.group, args.calibrate))
    except (ValueError, OSError) as e:
        print(f"quantize: {sentence(e)}", file=sys.stderr)
        return 2
    return 0


def save(path: Path, weights: str, out: Path, group: int | None = None, n_batches: int = 0) -> str:
    """Write the packed run; a sentence about it. Raises ValueError."""
    if out.exists():
        raise ValueError(f"--out {out}: expected a folder that is not there yet; name another")
    if group is not None and weights not in ("int4", "nf4"):
        raise ValueError(
            f"--group {group} would be ignored: expected --weights int4 or nf4, whose scales are shared; leave it out"
        )
    contents, opened = read_best(path), open_run(path)
    model, config = opened.text.model, opened.config
    merge(model)
    before, how = nbytes(model), {"weights": weights, "group": group or 64}
    if n_batches:
        if not isinstance(model, Decoder):
            raise ValueError(
                f"--calibrate {n_batches}: expected model.kind = decoder, not {config.model.kind}; leave it out"
            )
        batch = build_batches(config, build_data(config, contents["tokenizer"]))
        calibrate(model, [batch(i).tokens for i in range(n_batches)], **how)
    pack(model, **how)
    tokenizer = contents["tokenizer"]
    changed = {
        "config": to_toml(without_adapter(config)),
        "tokenizer": tokenizer.to_dict(),
        "base": None,
        "packed": how,
    }
    write_readable(out, without_adapter(config), tokenizer)
    place = out / "checkpoint" / "best.pt"
    checkpoint.save(place, contents | changed | {"step": {"model": model.state_dict()}})
    return f"{out}: weights {before / 1e6:.3f} MB -> {nbytes(model) / 1e6:.3f} MB, checkpoint {place.stat().st_size / 1e6:.3f} MB"


def without_adapter(config: RunConfig) -> RunConfig:
    """The config of the whole model."""
    return replace(config, adapter=AdapterConfig())


if __name__ == "__main__":
    sys.exit(main())

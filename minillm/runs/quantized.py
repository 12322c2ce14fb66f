"""Quantized runs: a trained run saved with weights of 8 or 4 bits, which cannot be trained further."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from minillm.adapters.build_adapter import NoAdapter
from minillm.adapters.merge import merge
from minillm.adapters.qlora import requantizing_error
from minillm.config.loading import to_toml
from minillm.models.decoder import Decoder
from minillm.quantization.awq import calibrate
from minillm.quantization.pack import pack, quantizer
from minillm.quantization.packed import Packed, nbytes
from minillm.runs import companions
from minillm.runs.config import RunConfig
from minillm.runs.folder import open_run, read_best, write_readable
from minillm.runs.wiring import build_batches, build_data
from minillm.training import checkpoint


def save(path: Path, weights: str, out: Path, group: int | None = None, n_batches: int = 0) -> str:
    """Write the quantized run; return a line with its sizes. Raises ValueError.

    `weights`: the format. `group`: inputs that share a scale; None: 64. `n_batches`: batches to calibrate on.
    """
    if out.exists():
        raise ValueError(f"--out {out}: expected a folder that does not exist yet; name another")
    if group is not None and weights not in ("int4", "nf4"):
        raise ValueError(
            f"--group {group} would be ignored: expected --weights int4 or nf4, whose scales are shared; leave it out"
        )
    contents, opened = read_best(path), open_run(path)
    model, config = opened.text.model, opened.config
    how = {"weights": weights, "group": group or 64}
    remark = "" if (quantize := quantizer(**how)) is None else rounding_remark(model, quantize)
    merge(model)
    before = nbytes(model)
    if n_batches:
        if not isinstance(model, Decoder):
            raise ValueError(
                f"--calibrate {n_batches}: expected model.kind = decoder, not {config.model.kind}; leave it out"
            )
        beside = companions.models(companions.open_companions(config), "cpu")
        batch = build_batches(config, build_data(config, contents["tokenizer"]), beside)
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
    return (
        f"{out}: weights {before / 1e6:.3f} MB -> {nbytes(model) / 1e6:.3f} MB, "
        f"checkpoint {place.stat().st_size / 1e6:.3f} MB{remark}"
    )


def rounding_remark(model: nn.Module, quantize: Callable[[Tensor], Packed]) -> str:
    """A remark on the weights of a QLoRA adapter, which were trained on packed weights; "" for any other model."""
    error = requantizing_error(model, quantize)
    return f"; rounding the merged weights again changes them by {100 * error:.1f} %" if error else ""


def without_adapter(config: RunConfig) -> RunConfig:
    """The config of a run whose adapter is merged into the model."""
    return replace(config, adapter=NoAdapter())

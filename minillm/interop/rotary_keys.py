"""Rotary scaling in a foreign config: `rope_parameters`, or `rope_theta` and `rope_scaling` in files before 2025."""

from collections.abc import Mapping
from typing import Any

from minillm.interop.foreign_config import ForeignConfig
from minillm.models.decoder import DecoderConfig

KINDS = {"default": "none", "linear": "linear", "yarn": "yarn", "llama3": "llama3"}
THEIRS = {ours: theirs for theirs, ours in KINDS.items()}


def read_rotary(f: ForeignConfig, base: float) -> dict[str, Any]:
    """The keys of our config for the rotary positions of all blocks. `base`: the default of `rope_theta`."""
    if "rope_parameters" in f.values:
        return read_parameters(f.take("rope_parameters"), f"{f.name}: rope_parameters", base)
    base = f.take("rope_theta", base)
    return read_parameters(f.take("rope_scaling", None) or {}, f"{f.name}: rope_scaling", base)


def read_parameters(values: Mapping[str, Any], name: str, base: float) -> dict[str, Any]:
    """The keys of our config for one dictionary of rotary parameters. Raises ValueError for keys it does not know."""
    f = ForeignConfig(values, name)
    kinds = [key for key in ("rope_type", "type") if key in values]
    kind = {f.choose(key, KINDS) for key in kinds} or {"none"}
    if len(kind) > 1:
        raise ValueError(f"{name}: rope_type and type differ: expected the same; take the file as published")
    [scaling] = kind
    keys: dict[str, Any] = {"rotary_base": float(f.take("rope_theta", base))}
    f.expect("partial_rotary_factor", 1, 1.0, default=1.0)
    if scaling != "none":
        keys |= {"rotary_scaling": scaling, "rotary_factor": float(f.take("factor"))}
    if scaling in ("yarn", "llama3"):
        keys["rotary_trained_length"] = f.number("original_max_position_embeddings")
    if scaling == "yarn":
        keys["rotary_many_turns"], keys["rotary_few_turns"] = f.take("beta_fast", 32.0), f.take("beta_slow", 1.0)
        keys["rotary_gain"] = f.take("attention_factor", None) or 0.0
        keys["rotary_whole_pairs"] = f.expect("truncate", True, False, default=True)
    if scaling == "llama3":
        keys["rotary_many_turns"], keys["rotary_few_turns"] = f.take("high_freq_factor"), f.take("low_freq_factor")
    f.finish()
    return keys


def write_parameters(c: DecoderConfig) -> dict[str, Any]:
    """The dictionary of rotary parameters for a config of ours. Raises ValueError for a scaling that they lack."""
    if c.rotary_scaling not in THEIRS:
        raise ValueError(f"model.rotary_scaling = {c.rotary_scaling}: expected {' or '.join(THEIRS)} to be exported")
    values: dict[str, Any] = {"rope_type": THEIRS[c.rotary_scaling], "rope_theta": c.rotary_base}
    if c.rotary_scaling != "none":
        values["factor"] = c.rotary_factor
    if c.rotary_scaling in ("yarn", "llama3"):
        values["original_max_position_embeddings"] = c.rotary_trained_length
    if c.rotary_scaling == "yarn":
        values |= {"beta_fast": c.rotary_many_turns, "beta_slow": c.rotary_few_turns, "truncate": c.rotary_whole_pairs}
        values |= {"attention_factor": c.rotary_gain} if c.rotary_gain else {}
    if c.rotary_scaling == "llama3":
        values |= {"high_freq_factor": c.rotary_many_turns, "low_freq_factor": c.rotary_few_turns}
    return values

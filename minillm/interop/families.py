"""Families of foreign decoders: how each config and each weight of theirs corresponds to our `DecoderConfig`.

    gpt2       Radford et al. 2019
    llama      Llama 2 and 3, SmolLM: Touvron et al. 2023; Dubey et al. 2024
    mistral    with a window: Jiang et al. 2023
    mixtral    with experts: Jiang et al. 2024
    qwen2      with biases of queries, keys and values: Qwen Team 2024
    qwen3      with norms of queries and keys; qwen3_moe also has experts: Qwen Team 2025
    gemma3     windows in most blocks, norms before and after each sublayer: Gemma Team 2025
    gpt_oss    sinks, windows in every second block, experts with biases: OpenAI 2025

`read` and `write` (see `family_configs`) are inverse to each other: a config of ours can be exported to a family if
reading what was written gives the same config. Read before: `family_configs`, `family_rules`.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

from minillm.interop.family_configs import (
    read_gemma3,
    read_gpt2,
    read_gpt_oss,
    read_llama,
    read_mistral,
    read_mixtral,
    read_qwen2,
    read_qwen3,
    read_qwen3_moe,
    write_gemma3,
    write_gpt2,
    write_gpt_oss,
    write_llama,
    write_mistral,
    write_mixtral,
    write_qwen,
    write_qwen3_moe,
)
from minillm.interop.family_rules import (
    gemma3_rules,
    gpt2_rules,
    gpt_oss_rules,
    llama_rules,
    mixtral_rules,
    qwen3_moe_rules,
)
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.rotary_keys import write_parameters
from minillm.interop.rules import Rule
from minillm.models.decoder import DecoderConfig

# keys of ours that matter only in training, which a foreign config does not state
TRAINING = ("dropout", "init_std", "init_embed", "init_out", "balance_loss", "balance_rate", "router_z_loss")
TRAINING += ("capacity_factor",)


class Family(NamedTuple):
    """One kind of foreign decoder."""

    architecture: str  # name of its class in transformers
    read: Callable[[ForeignConfig], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    rules: Callable[[DecoderConfig], list[Rule]]


FAMILIES: dict[str, Family] = {  # model_type in config.json -> family; the first that can express a config is exported
    "llama": Family("LlamaForCausalLM", read_llama, write_llama, llama_rules),
    "mistral": Family("MistralForCausalLM", read_mistral, write_mistral, llama_rules),
    "qwen2": Family("Qwen2ForCausalLM", read_qwen2, write_qwen, llama_rules),
    "qwen3": Family("Qwen3ForCausalLM", read_qwen3, write_qwen, llama_rules),
    "mixtral": Family("MixtralForCausalLM", read_mixtral, write_mixtral, mixtral_rules),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", read_qwen3_moe, write_qwen3_moe, qwen3_moe_rules),
    "gemma3_text": Family("Gemma3ForCausalLM", read_gemma3, write_gemma3, gemma3_rules),
    "gpt_oss": Family("GptOssForCausalLM", read_gpt_oss, write_gpt_oss, gpt_oss_rules),
    "gpt2": Family("GPT2LMHeadModel", read_gpt2, write_gpt2, gpt2_rules),
}


def resolved(c: DecoderConfig) -> DecoderConfig:
    """A config with each default of a size replaced by the size, and each key of training by its default."""
    usual = {field.name: getattr(DecoderConfig, field.name) for field in fields(c) if field.name in TRAINING}
    return replace(c, n_kv_heads=c.n_groups, d_head=c.width_of_head, d_ff=c.hidden_width, **usual)


def differing(name: str, c: DecoderConfig) -> list[str]:
    """The keys of a config that a family cannot express; "kind" if it can express nothing of it."""
    try:
        written = FAMILIES[name].write(c)
        f = ForeignConfig(written, name)
        read = FAMILIES[name].read(f)
        f.finish()
    except ValueError:
        return ["kind", *(field.name for field in fields(c))]
    ours, theirs = resolved(c), resolved(read)
    return [field.name for field in fields(c) if getattr(ours, field.name) != getattr(theirs, field.name)]


def family_for(c: DecoderConfig) -> str:
    """The model_type of the family that can express a config. Raises ValueError that names the keys in the way."""
    if c.positions == "rotary":
        write_parameters(c)
    missing = {name: differing(name, c) for name in FAMILIES}
    nearest = min(missing, key=lambda name: len(missing[name]))
    if missing[nearest]:
        keys = ", ".join(f"model.{key} = {getattr(c, key)}" for key in missing[nearest])
        raise ValueError(
            f"{keys}: expected a model that other libraries can express, nearest is {nearest}; train another"
        )
    return nearest

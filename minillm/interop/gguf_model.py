"""Models in GGUF files: keys and tensor names of llama.cpp, translated to those of transformers (Gerganov et al. 2023).

So the families of `families` serve both. Three things differ beyond names: files of the architecture "llama" store the
rows of queries and keys in another order, for a rotation of neighboring pairs; Gemma's norms hold 1 + w; and matrices
may be quantized. Blocks of four bits become packed layers of int4, without rounding again; others become float32.
Read before: `gguf_file`, `gguf_blocks`, `families`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.config.fields import suggest
from minillm.interop import rotary_factors
from minillm.interop.chat_template import bind
from minillm.interop.families import FAMILIES
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.gguf_file import FOUR_BITS, GGUF, open_gguf
from minillm.interop.gguf_tokenizer import read_gguf_tokenizer
from minillm.interop.gguf_values import Strings
from minillm.interop.imported import Imported, fit_to_vocabulary
from minillm.interop.rules import bring_in
from minillm.models.decoder import DecoderConfig

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
KEYS = {  # ours of transformers -> key of a GGUF file after the architecture
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
}
ROTARY = ("rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor")
ROTARY += ("rope.scaling.original_context_length",)
LARGEST_GEMMA = 62  # blocks of Gemma 3 27B, by which llama.cpp recognizes it
NEUTRAL = ("vocab_size", "attention.value_length", "rope.scaling.finetuned")
TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
    **{f"attn_{x}_norm": f"self_attn.{x}_norm" for x in "qk"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
GEMMA = {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm"}
GEMMA |= {"post_ffw_norm": "post_feedforward_layernorm"}


def read_gguf(path: Path) -> Imported:
    """Read a file. Raises ValueError, in a sentence, for a model that minillm would not compute exactly."""
    file = open_gguf(path)
    config, state = read_model(file)
    named = read_gguf_tokenizer({key: listed(x) for key, x in file.metadata.items()})
    tokenizer, remarks = fit_to_vocabulary(state, named)
    template = bind(file.metadata.get("tokenizer.chat_template", ""), token_names(file))
    return Imported(config, state, tokenizer, template, {}, tuple(remarks))


def token_names(file: GGUF) -> dict[str, str]:
    """The names of the tokens that a chat template may use, by their roles."""
    template, tokens = file.metadata.get("tokenizer.chat_template", ""), file.metadata["tokenizer.ggml.tokens"]
    ids = {f"{role}_token": file.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
    return {name: tokens[token] for name, token in ids.items() if token is not None and name in template}


def listed(value: Any) -> Any:
    """A value of the metadata in plain Python."""
    if isinstance(value, Strings):
        return list(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def read_model(file: GGUF) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """The model of a file and its weights."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = suggest(str(architecture), list(ARCHITECTURES))
        raise ValueError(f"{file.path}: general.architecture = {architecture!r}: expected {known}; take another model")
    family = FAMILIES[ARCHITECTURES[architecture]]
    f = ForeignConfig(read_config(file, architecture), str(file.path))
    config = family.read(f)
    f.finish()
    theirs = {translate(name, architecture): name for name in file if name != rotary_factors.NAME}
    stand_ins = {name: torch.empty(0) for name, found in theirs.items() if file.types[found] in FOUR_BITS}
    weights = {name: stand_ins[name] if name in stand_ins else file[found] for name, found in theirs.items()}
    state = bring_in(family.rules(config), weights, lambda name: False)
    packed = {id(x): name for name, x in stand_ins.items()}
    for ours, x in list(state.items()):
        if id(x) in packed:
            parts = file.int4(theirs[packed[id(x)]])
            assert parts is not None, "a matrix of these types has levels of four bits"
            del state[ours]
            state |= {f"{ours.removesuffix('weight')}{part}": y for part, y in parts._asdict().items()}
    if architecture == "llama":
        unpermute(config, state)
    if architecture == "gemma3":
        config = replace(config, norm="rmsnorm")
    return config, state


def read_config(file: GGUF, architecture: str) -> dict[str, Any]:
    """The keys of a file as those of a config.json. Raises ValueError for a key that is not understood."""
    prefix = f"{architecture}."
    found = {key.removeprefix(prefix): x for key, x in file.metadata.items() if key.startswith(prefix)}
    for key in found:
        if key not in (*KEYS.values(), *ROTARY, *NEUTRAL):
            raise ValueError(
                f"{file.path}: {prefix}{key} = {found[key]!r}: a key that minillm does not understand, so the model "
                "would be wrong; take a model without it"
            )
    values = {ours: found[key] for ours, key in KEYS.items() if key in found}
    values["tie_word_embeddings"] = "output.weight" not in file
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    if found.get("rope.dimension_count", width) != width:
        raise ValueError(f"{file.path}: rope.dimension_count = {found['rope.dimension_count']}: expected {width}")
    if architecture == "gemma3":
        if values["num_hidden_layers"] == LARGEST_GEMMA:
            raise ValueError(f"{file.path}: Gemma 3 27B: expected a smaller one, since its scores are scaled otherwise")
        values["query_pre_attn_scalar"] = width
    if architecture == "llama" and any(name.endswith("attn_q.bias") for name in file):
        values |= {"attention_bias": True, "mlp_bias": True}
    base = {"rope_theta": found["rope.freq_base"]} if "rope.freq_base" in found else {}
    return values | base | read_scaling(file, found, width)


def read_scaling(file: GGUF, found: dict[str, Any], width: int) -> dict[str, Any]:
    """The rotary scaling of a file, as `rope_scaling` of a config.json. `width`: of a head."""
    kind, name = found.get("rope.scaling.type", "none"), rotary_factors.NAME
    length = found.get("rope.scaling.original_context_length")
    if name in file:
        if kind != "none" or file.metadata["general.architecture"] != "llama" or file.shapes[name] != (width // 2,):
            raise ValueError(
                f"{file.path}: tensor {name} {file.shapes[name]}: expected it in a model of Llama's kind, without "
                f"another rotary scaling, of shape ({width // 2},); take another model"
            )
        base = found.get("rope.freq_base", 10000.0)
        return {"rope_scaling": rotary_factors.scaling_of(file[name], base, length or rotary_factors.TRAINED_LENGTH)}
    if kind == "none":
        return {}
    scaling = {"rope_type": kind, "factor": found.get("rope.scaling.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = length
    return {"rope_scaling": scaling}


def translate(name: str, architecture: str) -> str:
    """The name of a tensor in transformers; an unknown one is returned as it is, and then refused by that name."""
    stem, _, end = name.rpartition(".")
    if stem in TENSORS:
        return f"{TENSORS[stem]}.{end}"
    parts = stem.split(".", 2)
    block = BLOCK | GEMMA if architecture == "gemma3" else BLOCK
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in block:
        return f"model.layers.{parts[1]}.{block[parts[2]]}.{end}"
    return name


def unpermute(c: DecoderConfig, state: dict[str, Tensor]) -> None:
    """Bring the rows of queries and keys back in order: from pairs (2i, 2i + 1) of a head to pairs (i, i + K / 2)."""
    orders = {"to_q": row_order(c.n_heads, c.width_of_head), "to_k": row_order(c.n_groups, c.width_of_head)}
    for name, x in state.items():
        part = name.split(".")[-2]
        if part in orders:
            state[name] = x[orders[part]]


def row_order(n_heads: int, width: int) -> Tensor:
    """For each of our rows, its row in a file."""
    return torch.arange(n_heads * width).view(n_heads, width // 2, 2).mT.flatten()

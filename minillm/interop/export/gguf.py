"""Write a decoder of Llama's family as a GGUF file, which llama.cpp runs (Gerganov et al. 2023).

Queries and keys are written in the order of llama.cpp's rotation, which turns neighboring pairs. Read before:
`interop/gguf_model.py`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.interop import rotary_factors
from minillm.interop.export.hugging_face import Exported
from minillm.interop.families import FAMILIES, family_for
from minillm.interop.gguf_model import BLOCK, KEYS, TENSORS, row_order
from minillm.interop.gguf_writing import write_gguf
from minillm.interop.rules import take_out
from minillm.layers.rotary_scaling import Scaling
from minillm.models.decoder import DecoderConfig
from minillm.tokenizers.bpe import BPETokenizer, printable
from minillm.tokenizers.tokenizer import END

NORMAL, CONTROL = 1, 3  # token_type


def write_file(exported: Exported, path: Path, q8_0: bool = False) -> None:
    """Write a file in float32, or its matrices as Q8_0. Raises ValueError for what a file cannot hold."""
    c, tokenizer = exported.model, exported.tokenizer
    if not isinstance(c, DecoderConfig) or family_for(c) != "llama" or c.bias:
        raise ValueError(
            "a GGUF file: expected a decoder of Llama's kind, without biases, as configs/llama-tiny is; "
            "export a folder instead"
        )
    if c.rotary_scaling not in ("none", "llama3"):
        raise ValueError(
            f"model.rotary_scaling = {c.rotary_scaling} in a GGUF file: expected none or llama3; "
            "export a folder instead"
        )
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} in a GGUF file: expected tokenizer.kind = bpe, whose words llama.cpp cuts "
            "equally; export a folder instead, or train with that tokenizer"
        )
    found = write_keys(exported) | write_tokens(exported, tokenizer)
    tensors = write_tensors(c, exported.state)
    matrices = [name for name, x in tensors.items() if x.ndim == 2 and q8_0]
    write_gguf(path, found, tensors, matrices)


def write_keys(exported: Exported) -> dict[str, Any]:
    """The metadata of the shape."""
    values = FAMILIES["llama"].write(exported.model)
    shape = {f"llama.{key}": values[theirs] for theirs, key in KEYS.items() if theirs in values}
    width = exported.model.width_of_head
    rotary = {"llama.rope.freq_base": exported.model.rotary_base, "llama.rope.dimension_count": width}
    more = {"llama.attention.value_length": width, "llama.vocab_size": exported.tokenizer.vocab_size}
    if exported.model.rotary_scaling == "llama3":
        more["llama.rope.scaling.original_context_length"] = exported.model.rotary_trained_length
    return {"general.architecture": "llama", "general.name": "minillm"} | shape | rotary | more


def write_tokens(exported: Exported, tokenizer: BPETokenizer) -> dict[str, Any]:
    """The metadata of the tokenizer."""
    tokens = [END if i == tokenizer.end_id else printable(piece) for i, piece in enumerate(tokenizer.pieces)]
    types = [CONTROL if i == tokenizer.end_id else NORMAL for i in range(len(tokens))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{printable(left)} {printable(right)}" for left, right in tokenizer.merges],
        "tokenizer.ggml.bos_token_id": tokenizer.end_id,
        "tokenizer.ggml.eos_token_id": tokenizer.end_id,
        "tokenizer.ggml.add_bos_token": list(exported.opening) == [tokenizer.end_id],
    } | ({"tokenizer.chat_template": exported.template} if exported.template else {})


def write_tensors(c: DecoderConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of llama.cpp."""
    names = {theirs: ours for ours, theirs in TENSORS.items()}
    blocks = {theirs: ours for ours, theirs in BLOCK.items()}
    heads = {"attn_q": c.n_heads, "attn_k": c.n_groups}
    found = {}
    for name, x in take_out(FAMILIES["llama"].rules(c), state).items():
        stem, _, end = name.rpartition(".")
        if stem in names:
            found[f"{names[stem]}.{end}"] = x
            continue
        _, _, i, part = stem.split(".", 3)
        if blocks[part] in heads:
            x = x[row_order(heads[blocks[part]], c.width_of_head).argsort()]
        found[f"blk.{i}.{blocks[part]}.{end}"] = x.float() if x.ndim == 1 else x
    if c.rotary_scaling == "llama3":
        scaling = (c.rotary_scaling, c.rotary_factor, c.rotary_trained_length, c.rotary_few_turns, c.rotary_many_turns)
        found[rotary_factors.NAME] = rotary_factors.factors_of(c.width_of_head, c.rotary_base, Scaling(*scaling))
    return {name: x.to(torch.float32) for name, x in found.items()}

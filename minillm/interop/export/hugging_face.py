"""Write a model as a folder of Hugging Face transformers: config, weights, tokenizer and chat template.

`AutoModelForCausalLM` and `AutoTokenizer` open it, with equal logits and ids. What the library cannot express is
refused with its keys. Read before: `interop/families.py`, `interop/bert.py`, `interop/tokenizer_writing.py`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from minillm.decoding.sampler import SamplingConfig
from minillm.interop.bert import bert_rules, write_bert
from minillm.interop.families import FAMILIES, family_for
from minillm.interop.rules import take_out
from minillm.interop.safetensors_file import write_safetensors
from minillm.interop.tokenizer_writing import write_tokenizer
from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.system.atomic import write_atomically
from minillm.tokenizers.tokenizer import END, Tokenizer

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")  # that both libraries have


class Exported(NamedTuple):
    """A model to write: whole float32 weights, and what a user sets beside them."""

    model: DecoderConfig | EncoderConfig
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    opening: Sequence[int]  # ids before every text
    template: str  # of conversations; "" for none
    sampling: SamplingConfig


def write_folder(exported: Exported, folder: Path) -> None:
    """Write all files. Raises ValueError, before anything is written, for what the library cannot express."""
    config, weights = write_model(exported)
    ends = sorted({exported.tokenizer.end_id, *exported.tokenizer.stop_ids})
    begin = exported.opening[0] if exported.opening else exported.tokenizer.end_id
    ids = {"bos_token_id": begin, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    names = {token: name for name, token in exported.tokenizer.special_tokens.items()}
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(begin, END),
        "eos_token": names.get(exported.tokenizer.end_id, END),
        "clean_up_tokenization_spaces": False,
        # a user's text never becomes a special token; but the library finds those of a template in the text
        "split_special_tokens": not exported.template,
        "model_max_length": exported.model.context_length,
    }
    files = {
        "tokenizer.json": write_tokenizer(exported.tokenizer, exported.opening),
        "tokenizer_config.json": tokens | ({"chat_template": exported.template} if exported.template else {}),
        "config.json": config | ids,
    }
    if isinstance(exported.model, DecoderConfig):
        files["generation_config.json"] = ids | write_sampling(exported.sampling)
    write_safetensors(folder / "model.safetensors", weights)
    for file, content in files.items():
        write_atomically(folder / file, json.dumps(content, indent=1, ensure_ascii=False).encode())


def write_model(exported: Exported) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the weights under their foreign names."""
    c = exported.model
    common = {"vocab_size": exported.tokenizer.vocab_size, "dtype": "float32"}
    if isinstance(c, EncoderConfig):
        values = {"model_type": "bert", "architectures": ["BertForMaskedLM" if c.masked_head else "BertModel"]}
        common["vocab_size"] = len(exported.state["embed.weight"])
        return values | write_bert(c) | common, take_out(bert_rules(c), exported.state)
    if c.d_model % c.n_heads:
        raise ValueError(
            f"model.d_model = {c.d_model}: expected a multiple of n_heads = {c.n_heads}, without which the library "
            "opens no model; train another"
        )
    kind = family_for(c)
    family = FAMILIES[kind]
    values = {"model_type": kind, "architectures": [family.architecture]}
    return values | family.write(c) | common, take_out(family.rules(c), exported.state)


def write_sampling(sampling: SamplingConfig) -> dict[str, Any]:
    """The keys of generation_config.json. Settings that the library lacks are left out: they can be given there."""
    if sampling.temperature == 0:
        return {"do_sample": False}
    usual = SamplingConfig()
    # subtle: top_k is always written, since the library's own default is 50
    changed = [key for key in SAMPLING if key == "top_k" or getattr(sampling, key) != getattr(usual, key)]
    return {"do_sample": True} | {key: getattr(sampling, key) for key in changed}

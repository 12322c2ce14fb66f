"""Folders of Hugging Face transformers: config, weights, tokenizer and chat template of a published model.

    config.json                the shape of the model                     model.safetensors, or shards and an index
    generation_config.json     how to sample, and the ids that end a text
    tokenizer.json             the tokenizer                              tokenizer_config.json, with the chat template

Read before: `families`, `bert`, `safetensors_file`, `tokenizer_json`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.config.fields import suggest
from minillm.interop.bert import MASKED_HEAD, bert_rules, is_unused, read_bert
from minillm.interop.families import FAMILIES
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.imported import Imported, fit_to_vocabulary, read_sampling
from minillm.interop.rules import bring_in
from minillm.interop.safetensors_file import open_safetensors
from minillm.interop.tokenizer_json import read_tokenizer
from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.tokenizers.tokenizer import Tokenizer

TABLES = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # ends of names of tensors that hold no weights
PREFIXES = {"gpt2": "transformer.", "bert": "bert."}  # which some files leave out


def read_folder(folder: Path) -> Imported:
    """Read a folder. Raises ValueError, in a sentence, for a model that minillm would not compute exactly."""
    values = read_json(folder / "config.json")
    generation = read_json(folder / "generation_config.json", needed=False)
    settings = read_json(folder / "tokenizer_config.json", needed=False)
    ends = generation.get("eos_token_id", values.get("eos_token_id"))
    stop_ids = [] if ends is None else ends if isinstance(ends, list) else [ends]
    tokenizer = read_tokenizer(folder / "tokenizer.json", settings, stop_ids)
    config, state = read_model(values, Prefixed(open_safetensors(folder), values.get("model_type")), tokenizer)
    remark = fit_to_vocabulary(state, tokenizer)
    remarks = (remark,) if remark else ()
    return Imported(config, state, tokenizer, template_of(folder, settings), read_sampling(generation), remarks)


def read_json(path: Path, needed: bool = True) -> dict[str, Any]:
    """The dictionary in a JSON file; empty for a missing file that is not needed. Raises ValueError."""
    if not path.is_file():
        if needed:
            raise ValueError(f"{path}: expected this file of a Hugging Face folder, found none; take all files")
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: expected JSON, but {e}; take another copy of the file") from e
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected a dictionary, found a {type(values).__name__}; take another copy of the file"
        )
    return values


def read_model(
    values: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Tokenizer
) -> tuple[DecoderConfig | EncoderConfig, dict[str, Tensor]]:
    """The model of a config.json and its weights. Raises ValueError for keys or tensors that are not understood."""
    f, kind = ForeignConfig(values, "config.json"), values.get("model_type")
    if kind == "bert":
        mask_id = tokenizer.special_tokens.get("[MASK]", 0)
        config = read_bert(f, weights, mask_id)
        rules, neutral = bert_rules(config), is_unused
    elif kind in FAMILIES:
        config = FAMILIES[kind].read(f)
        rules = FAMILIES[kind].rules(config)
        tied = weights["lm_head.weight"] if config.tied and "lm_head.weight" in weights else None
        if tied is not None and not torch.equal(tied, weights[rules_of_embedding(rules)]):
            raise ValueError("tensor lm_head.weight: expected the embedding, since tie_word_embeddings = true")
        neutral = is_table if tied is None else is_table_or_head
    else:
        raise ValueError(f"config.json: model_type = {kind!r}: expected {suggest(str(kind), [*FAMILIES, 'bert'])}")
    f.finish()
    return config, bring_in(rules, weights, neutral)


def rules_of_embedding(rules: list[Any]) -> str:
    """The foreign name of the embedding."""
    return next(rule.theirs[0] for rule in rules if "embed.weight" in rule.ours)


def is_table(name: str) -> bool:
    """Whether a tensor is a table that the model can compute."""
    return name.endswith(TABLES)


def is_table_or_head(name: str) -> bool:
    """Whether a tensor is a table, or the head, which repeats the embedding."""
    return is_table(name) or name == "lm_head.weight"


def template_of(folder: Path, settings: Mapping[str, Any]) -> str:
    """The chat template of a folder; "" for none. Of several named ones, the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template}
        if "default" not in named:
            raise ValueError(f"tokenizer_config.json: chat_template = {list(named)}: expected one named default")
        template = named["default"]
    if not isinstance(template, str):
        raise ValueError("tokenizer_config.json: chat_template: expected a text; take another copy of the file")
    return template


class Prefixed(Mapping[str, Tensor]):
    """Tensors by their full names; some files leave out the name of the body of the model."""

    def __init__(self, tensors: Mapping[str, Tensor], kind: str | None):
        self.tensors, self.prefix = tensors, PREFIXES.get(kind or "", "")
        if any(name.startswith(self.prefix) for name in tensors):
            self.prefix = ""

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self._short(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._short(name) in self.tensors

    def __iter__(self) -> Iterator[str]:
        heads = MASKED_HEAD, "lm_head.", "cls."
        return (name if name.startswith(heads) else self.prefix + name for name in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def _short(self, name: str) -> str:
        return name.removeprefix(self.prefix)

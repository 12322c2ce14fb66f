"""Folders of Hugging Face transformers: config, weights, tokenizer and chat template of a published model.

    config.json                the shape of the model                     model.safetensors, or shards and an index
    generation_config.json     how to sample, and the ids that end a text
    tokenizer.json             the tokenizer                              tokenizer_config.json, with the chat template
    sentence_bert_config.json  the longest text of a sentence encoder     1_Pooling/config.json, how vectors are made

Read before: `families`, `bert`, `safetensors_file`, `tokenizer_json`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.config.fields import suggest
from minillm.interop.bert import bert_rules, is_unused, read_bert
from minillm.interop.chat_template import bind
from minillm.interop.families import FAMILIES
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.imported import Imported, fit_to_vocabulary, read_sampling
from minillm.interop.rules import Rule, bring_in
from minillm.interop.safetensors_file import open_safetensors
from minillm.interop.tokenizer_json import read_tokenizer
from minillm.interop.vocabulary import ROLES, content_of
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
    config, state = read_model(values, Renamed(open_safetensors(folder), values.get("model_type")), tokenizer)
    shorter = ""
    if isinstance(config, EncoderConfig):
        config, shorter = limit_length(config, state, folder)
        if not config.masked_head:
            check_pooling(folder)
    sampling, ignored = read_sampling(generation)
    tokenizer, remarks = fit_to_vocabulary(state, tokenizer)
    remarks += [remark for remark in (shorter, ignored) if remark]
    return Imported(config, state, tokenizer, template_of(folder, settings), sampling, tuple(remarks))


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
        refuse_another_head(weights, "cls.predictions.decoder.weight", rules)
    elif kind in FAMILIES:
        config = FAMILIES[kind].read(f)
        rules = FAMILIES[kind].rules(config)
        neutral = is_table_or_head if config.tied else is_table
        if config.tied:
            refuse_another_head(weights, "lm_head.weight", rules)
    else:
        raise ValueError(f"config.json: model_type = {kind!r}: expected {suggest(str(kind), [*FAMILIES, 'bert'])}")
    f.finish()
    return config, bring_in(rules, weights, neutral)


def refuse_another_head(weights: Mapping[str, Tensor], head: str, rules: Sequence[Rule]) -> None:
    """Raise ValueError if a file has a head that differs from the embedding to which it should be tied."""
    embedding = next(rule.theirs[0] for rule in rules if "embed.weight" in rule.ours)
    if head in weights and not torch.equal(weights[head], weights[embedding]):
        raise ValueError(f"tensor {head}: expected it to equal {embedding}, as the config says; take another model")


def check_pooling(folder: Path) -> None:
    """Raise ValueError for a sentence encoder whose vectors are not means of the hidden vectors."""
    values = read_json(folder / "1_Pooling" / "config.json", needed=False)
    chosen = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    if values and chosen != ["pooling_mode_mean_tokens"]:
        raise ValueError(
            f"1_Pooling/config.json: {', '.join(chosen) or 'no pooling'}: expected pooling_mode_mean_tokens, which "
            "minillm computes; take another model"
        )


def limit_length(config: EncoderConfig, state: dict[str, Tensor], folder: Path) -> tuple[EncoderConfig, str]:
    """The config of a sentence encoder with the longest text for which it was trained, and a remark; "" for no limit.

    Other programs cut longer texts silently; ours refuse them, as those beyond the context: so the limit becomes the
    context, and positions beyond it are left out. Raises ValueError for keys that are not understood.
    """
    f = ForeignConfig(read_json(folder / "sentence_bert_config.json", needed=False), "sentence_bert_config.json")
    f.expect("do_lower_case", False, default=False)  # true: beside what the tokenizer does
    limit = None if f.take("max_seq_length", None) is None else f.number("max_seq_length")
    f.finish()
    if limit is None or limit >= config.context_length:
        return config, ""
    name = "embed_positions.table.weight"
    state[name] = state[name][:limit].clone()
    remark = (
        f"texts of more than {limit} tokens are refused, of {config.context_length} that the file has positions for"
    )
    return replace(config, context_length=limit), f"{remark}: max_seq_length of sentence_bert_config.json"


def is_table(name: str) -> bool:
    """Whether a tensor is a table that the model can compute."""
    return name.endswith(TABLES)


def is_table_or_head(name: str) -> bool:
    """Whether a tensor is a table, or the head, which repeats the embedding."""
    return is_table(name) or name == "lm_head.weight"


def template_of(folder: Path, settings: Mapping[str, Any]) -> str:
    """The chat template of a folder, which sets the names of tokens that it uses; "" for none.

    Of several named templates, the default one.
    """
    file = folder / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template") or ""
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template}
        if "default" not in named:
            raise ValueError(f"tokenizer_config.json: chat_template = {list(named)}: expected one named default")
        template = named["default"]
    if not isinstance(template, str):
        raise ValueError("tokenizer_config.json: chat_template: expected a text; take another copy of the file")
    names = {role: content_of(settings[role]) for role in ROLES if role in template and settings.get(role)}
    return bind(template, names)


class Renamed(Mapping[str, Tensor]):
    """Tensors by their full names of today.

    Some files leave out the name of the body of the model, and old ones call the weight and bias of a norm gamma and
    beta.
    """

    def __init__(self, tensors: Mapping[str, Tensor], kind: str | None):
        self.tensors, prefix = tensors, PREFIXES.get(kind or "", "")
        if any(name.startswith(prefix) for name in tensors):
            prefix = ""
        self.stored = {full_name(name, prefix): name for name in tensors}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.stored[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def full_name(name: str, prefix: str) -> str:
    """The name of a tensor with the prefix of the body, unless it belongs to a head."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        name = name.replace(old, new)
    return name if name.startswith(("cls.", "lm_head.")) else prefix + name

"""The config of a foreign model, read key by key, so that no key is overlooked.

A key that changes what a model computes must be understood; otherwise the imported model would be almost right. So each
key is taken by name, and `finish` refuses the keys that nobody took, except those of `NEUTRAL`, which say nothing about
the function of the model. Format: config.json of Hugging Face transformers.
"""

from collections.abc import Mapping
from typing import Any

from minillm.config.fields import suggest

REQUIRED = object()
# keys about training, files and programs, and sizes and ids that other files state too
NEUTRAL = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_from_model_config",
    "_name_or_path",
    "_num_labels",
    "_sliding_window_pattern",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "bad_words_ids",
    "bos_token_id",
    "cache_implementation",
    "classifier_dropout",
    "decoder_start_token_id",
    "directionality",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "init_std",
    "initial_context_length",
    "initializer_factor",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_length",
    "model_type",
    "n_special",
    "num_beams",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "predict_special_tokens",
    "pretraining_tp",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "vocab_size",
}


class ForeignConfig:
    """The keys and values of a foreign config."""

    def __init__(self, values: Mapping[str, Any], name: str):
        """`name`: how the config is called in messages, such as its path."""
        self.values, self.name, self.taken = dict(values), name, set[str]()

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key, or its default in the foreign library. Raises ValueError if there is neither."""
        self.taken.add(key)
        if key in self.values:
            return self.values[key]
        if default is REQUIRED:
            raise ValueError(f"{self.name}: {key} = missing: expected a value; take the file as published")
        return default

    def number(self, key: str, default: Any = REQUIRED) -> int:
        """A whole number above 0. Raises ValueError for anything else."""
        value = self.take(key, default)
        if type(value) is not int or value < 1:
            raise ValueError(
                f"{self.name}: {key} = {value!r}: expected a whole number above 0; take the file as published"
            )
        return value

    def expect(self, key: str, *allowed: Any, default: Any = REQUIRED) -> Any:
        """The value of a key that may have only the allowed values. Raises ValueError for another one."""
        value = self.take(key, default)
        if value not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(
                f"{self.name}: {key} = {value!r}: expected {known}, which minillm computes; take another model"
            )
        return value

    def choose(self, key: str, choices: Mapping[str, Any], default: Any = REQUIRED) -> Any:
        """The entry of `choices` for the value of a key. Raises ValueError, with a suggestion, for another value."""
        value = self.take(key, default)
        if value not in choices:
            raise ValueError(f"{self.name}: {key} = {value!r}: expected {suggest(str(value), list(choices))}")
        return choices[value]

    def finish(self) -> None:
        """Raise ValueError for a key that was not taken and is not neutral."""
        for key in self.values:
            if key not in self.taken and key not in NEUTRAL:
                raise ValueError(
                    f"{self.name}: {key} = {self.values[key]!r}: a key that minillm does not understand, so the model "
                    "would be wrong; take a model without it"
                )

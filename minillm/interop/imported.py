"""An imported model: what the files of another project say, in our terms, before it becomes a run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.tokenizers.tokenizer import Tokenizer

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
UNCHANGED = ("do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache")
UNCHANGED += ("max_length", "max_new_tokens", "transformers_version", "output_attentions", "output_hidden_states")
UNCHANGED += ("cache_implementation",)  # keys without an effect on the text, or stated elsewhere
# beginnings of the names of tensors with one row for each id
ROWS = ("embed.", "head.weight", "head.values", "head.scales", "head.offsets", "head.embed.", "head.bias")


class Imported(NamedTuple):
    """A model, its weights, its tokenizer, and how it wants to be used."""

    model: DecoderConfig | EncoderConfig
    state: dict[str, Tensor]  # the model's state_dict; packed layers have `values`, `scales` and `offsets`
    tokenizer: Tokenizer
    template: str  # chat template (Jinja); "" for none
    sampling: Mapping[str, Any]  # settings of `SamplingConfig`
    remarks: tuple[str, ...] = ()  # what a user should know


def fit_to_vocabulary(state: dict[str, Tensor], tokenizer: Tokenizer) -> str:
    """Cut the rows of embedding and head that belong to no id of the tokenizer; return a remark, "" for nothing cut.

    Some models are published with more rows than ids, to have a round number; nothing trains them, and a padded row
    that is sampled decodes to nothing. Raises ValueError if the tokenizer has more ids than the model.
    """
    rows = [name for name in state if name.startswith(ROWS)]
    n_rows, n_ids = max(len(state[name]) for name in rows), tokenizer.vocab_size
    if n_rows < n_ids:
        raise ValueError(
            f"tokenizer of {n_ids} ids: expected at most {n_rows}, the rows of the embedding; take the tokenizer of "
            "this model"
        )
    if n_rows == n_ids:
        return ""
    cut: dict[int, Tensor] = {}  # subtle: tied tensors stay one tensor
    for name in rows:
        whole = state[name]
        state[name] = cut.setdefault(id(whole), whole[:n_ids])
    return f"{n_rows - n_ids} rows of the embedding belong to no id of the tokenizer and were left out"


def read_sampling(generation: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Sampling settings from the content of generation_config.json, and a remark on those that are not taken over.

    A model that is published with do_sample = false, or without it, is meant to be used greedily.
    """
    greedy = not generation.get("do_sample", False)
    taken = ("repetition_penalty",) if greedy else SAMPLING
    settings = {key: generation[key] for key in taken if generation.get(key) is not None}
    left = [key for key in generation if key not in (*SAMPLING, *UNCHANGED) and not key.startswith("_")]
    remark = f"generation_config.json: {', '.join(left)} not taken over" if left else ""
    if not generation:
        return {}, ""
    # top_k = 50 is the default of the library, so a file that leaves it out means 50
    return ({"temperature": 0.0} if greedy else {"top_k": 50}) | settings, remark

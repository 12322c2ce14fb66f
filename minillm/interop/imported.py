"""An imported model: what the files of another project say, in our terms, before it becomes a run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from minillm.models.decoder import DecoderConfig
from minillm.models.encoder import EncoderConfig
from minillm.tokenizers.imported import ImportedTokenizer

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
    tokenizer: ImportedTokenizer
    template: str  # chat template (Jinja); "" for none
    sampling: Mapping[str, Any]  # settings of `SamplingConfig`
    remarks: tuple[str, ...] = ()  # what a user should know


def fit_to_vocabulary(state: dict[str, Tensor], tokenizer: ImportedTokenizer) -> tuple[ImportedTokenizer, list[str]]:
    """Make tokenizer and weights agree about the number of ids; return the tokenizer and remarks on what was left out.

    Cut the rows of embedding and head that belong to no id of the tokenizer: some models are published with more rows
    than ids, to have a round number; nothing trains them, and a padded row that is sampled decodes to nothing. Leave
    out added tokens without a row, which the model cannot read. Raises ValueError if any other id has no row.
    """
    rows = [name for name in state if name.startswith(ROWS)]
    n_rows = max(len(state[name]) for name in rows)
    tokenizer, remark = without_rowless(tokenizer, n_rows)
    remarks, n_ids = [remark] if remark else [], tokenizer.vocab_size
    if n_rows < n_ids:
        raise ValueError(
            f"tokenizer of {n_ids} ids: expected at most {n_rows}, the rows of the embedding; take the tokenizer of "
            "this model"
        )
    if n_rows == n_ids:
        return tokenizer, remarks
    cut: dict[int, Tensor] = {}  # subtle: tied tensors stay one tensor
    for name in rows:
        whole = state[name]
        state[name] = cut.setdefault(id(whole), whole[:n_ids])
    return tokenizer, [*remarks, f"{n_rows - n_ids} rows of the embedding belong to no id of the tokenizer: left out"]


def without_rowless(tokenizer: ImportedTokenizer, n_rows: int) -> tuple[ImportedTokenizer, str]:
    """The tokenizer without its added tokens beyond the rows of the embedding, and a remark; "" for none.

    Gemma 3 shares its files with models that read images, and names their token. Raises ValueError for one that begins
    or ends texts.
    """
    out = {each.token: each.text for each in tokenizer.pipeline.added if each.token >= n_rows}
    if not out:
        return tokenizer, ""
    d = tokenizer.to_dict()
    d["pipeline"]["added"] = [each for each in d["pipeline"]["added"] if each["token"] not in out]
    beyond = enumerate(d["texts"][n_rows:], n_rows)
    if all(text in (None, out.get(token)) for token, text in beyond):  # they may stand among the pieces too
        d |= {name: d[name][:n_rows] for name in ("texts", "scores") if name in d}
    named = ", ".join(f"{text!r} ({token})" for token, text in out.items())
    remark = f"added tokens {named}: beyond the {n_rows} rows of the embedding, so the model cannot read them: left out"
    return type(tokenizer).from_dict(d), remark


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

"""BERT, and sentence encoders of its shape such as MiniLM, as our encoder (Devlin et al. 2019; Wang et al. 2020).

A file may have the head for masked tokens or not; without it the encoder gives hidden vectors only. The head for the
next sentence and the pooler are not imported: they serve neither masked tokens nor sentence vectors, which are means.
Read before: `foreign_config`, `rules`.
"""

from collections.abc import Collection
from typing import Any

from minillm.interop.family_configs import ACTIVATION
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.rules import Rule, rename
from minillm.models.encoder import N_SEGMENTS, EncoderConfig

MASKED_HEAD = "cls.predictions."
UNUSED = ("bert.pooler.", "cls.seq_relationship.", "bert.embeddings.position_ids", "cls.predictions.decoder.")
ACTIVATIONS = ACTIVATION | {"gelu_python": "gelu-erf"}


def read_bert(f: ForeignConfig, names: Collection[str], mask_id: int) -> EncoderConfig:
    """Our config. `names`: the names of the tensors; `mask_id`: the id of [MASK] in the vocabulary."""
    f.expect("type_vocab_size", N_SEGMENTS, default=2)
    f.expect("position_embedding_type", "absolute", default="absolute")
    f.expect("is_decoder", False, default=False)
    f.expect("add_cross_attention", False, default=False)
    f.expect("tie_word_embeddings", True, default=True)
    return EncoderConfig(
        n_layers=f.number("num_hidden_layers", 12),
        d_model=f.number("hidden_size", 768),
        n_heads=f.number("num_attention_heads", 12),
        d_ff=f.number("intermediate_size", 3072),
        context_length=f.number("max_position_embeddings", 512),
        norm_eps=f.take("layer_norm_eps", 1e-12),
        feedforward=f.choose("hidden_act", ACTIVATIONS, "gelu"),
        masked_head=any(name.startswith(MASKED_HEAD) for name in names),
        mask_id=mask_id,
    )


def write_bert(c: EncoderConfig) -> dict[str, Any]:
    """The foreign config of an encoder. Raises ValueError for one that BERT cannot express."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATION.items())}
    fits = {"positions": "learned", "norm_place": "post", "next_sentence": 0}
    wrong = [f"model.{key} = {getattr(c, key)}" for key, value in fits.items() if getattr(c, key) != value]
    if c.feedforward not in names:
        wrong.append(f"model.feedforward = {c.feedforward}")
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: expected an encoder as BERT is, to be exported; train another")
    return {
        "num_hidden_layers": c.n_layers,
        "hidden_size": c.d_model,
        "num_attention_heads": c.n_heads,
        "intermediate_size": c.d_ff or 4 * c.d_model,
        "max_position_embeddings": c.context_length,
        "layer_norm_eps": c.norm_eps,
        "hidden_act": names[c.feedforward],
        "type_vocab_size": N_SEGMENTS,
    }


def bert_rules(c: EncoderConfig) -> list[Rule]:
    """The names of all tensors."""
    modules = {"embed_norm": "embeddings.LayerNorm"}
    for i in range(c.n_layers):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        modules |= {f"{ours}.attention.to_{x[0]}": f"{theirs}.attention.self.{x}" for x in ("query", "key", "value")}
        modules |= {f"{ours}.attention.to_out": f"{theirs}.attention.output.dense"}
        modules |= {f"{ours}.norm_1": f"{theirs}.attention.output.LayerNorm"}
        modules |= {f"{ours}.feedforward.up": f"{theirs}.intermediate.dense"}
        modules |= {
            f"{ours}.feedforward.down": f"{theirs}.output.dense",
            f"{ours}.norm_2": f"{theirs}.output.LayerNorm",
        }
    modules = {ours: f"bert.{theirs}" for ours, theirs in modules.items()}
    if c.masked_head:
        modules |= {
            f"head.{part}": f"{MASKED_HEAD}transform.{x}" for part, x in (("dense", "dense"), ("norm", "LayerNorm"))
        }
    found = [rename(f"{a}.{what}", f"{b}.{what}") for a, b in modules.items() for what in ("weight", "bias")]
    found.append(rename("embed_positions.table.weight", "bert.embeddings.position_embeddings.weight"))
    found.append(rename("embed_segments.weight", "bert.embeddings.token_type_embeddings.weight"))
    words = "bert.embeddings.word_embeddings.weight"
    if not c.masked_head:
        return [*found, rename("embed.weight", words)]
    both = "embed.weight", "head.embed.weight"
    found.append(Rule(both, (words,), lambda x: [x, x], lambda embed, head: [embed]))
    return [*found, rename("head.bias", f"{MASKED_HEAD}bias")]


def is_unused(name: str) -> bool:
    """Whether a tensor is not imported, since neither masked tokens nor sentence vectors need it."""
    return name.startswith(UNUSED)

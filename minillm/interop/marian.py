"""Marian, the encoder-decoder of Vaswani et al. 2017 as translation models are published (Junczys-Dowmunt et al. 2018).

Its sinusoidal positions have all sines first and then all cosines; in ours, as in the paper, they alternate. Nothing in
the model depends on the order of the numbers in a vector, so all weights are reordered to ours. Read before: `rules`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minillm.interop.family_configs import ACTIVATION
from minillm.interop.foreign_config import ForeignConfig
from minillm.interop.rules import Rule
from minillm.models.encoder_decoder import EncoderDecoderConfig

ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
INTO_STREAM = ("to_out", "down")  # parts whose output, not input, is a vector of the residual stream
NORMS = {  # ours -> theirs, in a block of each side
    "encoder": {"norm_1": "self_attn_layer_norm", "norm_2": "final_layer_norm"},
    "decoder": {"norm_1": "self_attn_layer_norm", "norm_2": "encoder_attn_layer_norm", "norm_3": "final_layer_norm"},
}


def read_marian(f: ForeignConfig) -> EncoderDecoderConfig:
    """Our config. Raises ValueError for a model whose two sides differ."""
    n_layers, n_heads = f.number("encoder_layers", 12), f.number("encoder_attention_heads", 16)
    d_ff = f.number("encoder_ffn_dim", 4096)
    f.expect("decoder_layers", n_layers, default=12)
    f.expect("decoder_attention_heads", n_heads, default=16)
    f.expect("decoder_ffn_dim", d_ff, default=4096)
    for key in ("scale_embedding", "share_encoder_decoder_embeddings", "tie_word_embeddings"):
        f.expect(key, True, default=key != "scale_embedding")
    for key in ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "decoder_vocab_size"):
        f.take(key, None)
    for key in ("is_encoder_decoder", "is_decoder"):
        f.expect(key, key == "is_encoder_decoder", default=key == "is_encoder_decoder")
    return EncoderDecoderConfig(
        n_layers=n_layers,
        d_model=f.number("d_model", 1024),
        n_heads=n_heads,
        d_ff=d_ff,
        context_length=f.number("max_position_embeddings", 1024),
        feedforward=f.choose("activation_function", ACTIVATION, "gelu"),
        dropout=f.take("dropout", 0.1),
    )


def marian_rules(c: EncoderDecoderConfig, vocab_size: int) -> list[Rule]:
    """The names and the order of all tensors."""
    whole = torch.arange(c.d_model)
    theirs = torch.cat([whole[::2], whole[1::2]])  # ours at each index of theirs
    ours = theirs.argsort()

    def columns(order: Tensor) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [x[..., order].contiguous()]

    def rows(order: Tensor) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [x[order].contiguous()]

    def both(name: str, other: str) -> list[Rule]:
        """Weight and bias of a linear layer or norm."""
        of_stream = name.rpartition(".")[2].startswith(("norm", *INTO_STREAM))
        inward, outward = (rows(ours), rows(theirs)) if of_stream else (columns(ours), columns(theirs))
        bias = (inward, outward) if of_stream else ()
        return [
            Rule((f"{name}.weight",), (f"{other}.weight",), inward, outward),
            Rule((f"{name}.bias",), (f"{other}.bias",), *bias),
        ]

    found = [
        Rule(
            ("embed.weight", "head.weight"),
            ("model.shared.weight",),
            lambda x: [x[:, ours].contiguous()] * 2,
            lambda embed, head: [embed[:, theirs].contiguous()],
        ),
        Rule((), ("final_logits_bias",), refuse_bias, lambda: [torch.zeros(1, vocab_size)]),
    ]
    for side, norms in NORMS.items():
        for i in range(c.n_layers):
            name, other = f"{side}.{i}", f"model.{side}.layers.{i}"
            parts = {f"attention.{to}": f"self_attn.{proj}" for to, proj in ATTENTION.items()}
            if side == "decoder":
                parts |= {f"cross.{to}": f"encoder_attn.{proj}" for to, proj in ATTENTION.items()}
            parts |= {"feedforward.up": "fc1", "feedforward.down": "fc2", **norms}
            found += [rule for a, b in parts.items() for rule in both(f"{name}.{a}", f"{other}.{b}")]
    return found


def refuse_bias(bias: Tensor) -> list[Tensor]:
    """Nothing to import; raises ValueError for a bias that is not 0."""
    if bias.any():
        raise ValueError("tensor final_logits_bias: expected zeros, since our head has no bias; take another model")
    return []

"""The weights of the families of foreign decoders: the name of each tensor of theirs and ours, and how it is stored.

Llama and its relatives only have other names. GPT-2 joins three projections and stores matrices transposed; gpt-oss
stores the two halves of a gated layer in alternating columns. Read before: `rules`, `family_configs`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minillm.interop.rules import Rule, rename, stacked, transposed
from minillm.models.decoder import DecoderConfig


def llama_rules(c: DecoderConfig) -> list[Rule]:
    """Names of embedding, norms and attention, which all families of Llama share, and of a dense feed-forward."""
    feedforward = [(f"feedforward.{part}", f"mlp.{part}_proj") for part in ("gate", "up", "down")]
    return [*attention_rules(c), *block_rules(c, feedforward, c.bias)]


def mixtral_rules(c: DecoderConfig) -> list[Rule]:
    """Names of Mixtral."""
    names = {"gate": "w1", "down": "w2", "up": "w3"}
    return expert_rules(c, "block_sparse_moe.gate", "block_sparse_moe.experts.{e}.{part}.weight", names)


def qwen3_moe_rules(c: DecoderConfig) -> list[Rule]:
    """Names of Qwen3 with experts."""
    names = {part: f"{part}_proj" for part in ("gate", "up", "down")}
    return expert_rules(c, "mlp.gate", "mlp.experts.{e}.{part}.weight", names)


def expert_rules(c: DecoderConfig, router: str, expert: str, names: dict[str, str]) -> list[Rule]:
    """Names of a decoder with experts; `expert` is the name of one matrix of one expert."""
    found = attention_rules(c) + block_rules(c, [("feedforward.router", router)], False)
    for i in range(c.n_layers):
        for part, theirs in names.items():
            each = [f"model.layers.{i}.{expert.format(e=e, part=theirs)}" for e in range(c.n_experts)]
            found.append(stacked(f"blocks.{i}.feedforward.experts.{part}.weight", each))
    return found + balance_rules(c)


def gemma3_rules(c: DecoderConfig) -> list[Rule]:
    """Names of Gemma 3, which calls other norms by the names of Llama's."""
    found = [rule for rule in llama_rules(c) if not rule.ours[0].endswith("norm_2.weight")]
    names = {"norm_of_attention": "post_attention_layernorm", "norm_2": "pre_feedforward_layernorm"}
    names |= {"norm_of_feedforward": "post_feedforward_layernorm"}
    return found + block_rules(c, list(names.items()), False)


def gpt_oss_rules(c: DecoderConfig) -> list[Rule]:
    """Names of gpt-oss, and the order of its gates."""
    found = attention_rules(c) + balance_rules(c)
    found += block_rules(c, [("attention.softmax.sinks", "self_attn.sinks")], False, suffix="")
    for i in range(c.n_layers):
        ours, theirs = f"blocks.{i}.feedforward", f"model.layers.{i}.mlp"
        router = {f"{ours}.router.weight": "router.weight", f"{ours}.router.offset": "router.bias"}
        found += [rename(name, f"{theirs}.{other}") for name, other in router.items()]
        up = tuple(f"{ours}.experts.{part}" for part in ("gate", "up"))
        weights, biases = (tuple(f"{part}.{what}" for part in up) for what in ("weight", "bias"))
        found += [
            Rule(weights, (f"{theirs}.experts.gate_up_proj",), split_gate, join_gate),
            Rule(biases, (f"{theirs}.experts.gate_up_proj_bias",), split_gate_bias, join_gate_bias(c)),
            Rule((f"{ours}.experts.down.weight",), (f"{theirs}.experts.down_proj",), swap, swap),
            Rule((f"{ours}.experts.down.bias",), (f"{theirs}.experts.down_proj_bias",), flat, unflat(c.n_experts)),
        ]
    return found


def gpt2_rules(c: DecoderConfig) -> list[Rule]:
    """Names of GPT-2, and its joined and transposed matrices."""
    found = [rename("embed_positions.table.weight", "transformer.wpe.weight")]
    found += embedding_rules(c, "transformer.wte.weight")
    found += [rename(f"norm.{what}", f"transformer.ln_f.{what}") for what in ("weight", "bias")]
    linears = {"attention.to_out": "attn.c_proj", "feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj"}
    for i in range(c.n_layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        for n in (1, 2):
            found += [rename(f"{ours}.norm_{n}.{what}", f"{theirs}.ln_{n}.{what}") for what in ("weight", "bias")]
        for name, other in linears.items():
            found.append(transposed(f"{ours}.{name}.weight", f"{theirs}.{other}.weight"))
            found.append(rename(f"{ours}.{name}.bias", f"{theirs}.{other}.bias"))
        weights, biases = (
            tuple(f"{ours}.attention.{to}.{what}" for to in ("to_q", "to_k", "to_v")) for what in ("weight", "bias")
        )
        found.append(Rule(weights, (f"{theirs}.attn.c_attn.weight",), split_transposed, join_transposed))
        found.append(Rule(biases, (f"{theirs}.attn.c_attn.bias",), split_bias, join_bias))
    return found


def attention_rules(c: DecoderConfig) -> list[Rule]:
    """Names of embedding, head, norms and attention in the family of Llama."""
    found = [rename("norm.weight", "model.norm.weight"), *embedding_rules(c, "model.embed_tokens.weight")]
    norms = [("norm_1", "input_layernorm"), ("norm_2", "post_attention_layernorm")]
    norms += [(f"attention.{x}_norm", f"self_attn.{x}_norm") for x in "qk"] if c.qk_norm else []
    qkv = [(f"attention.to_{x}", f"self_attn.{x}_proj") for x in "qkv"]
    found += block_rules(c, norms, False) + block_rules(c, qkv, c.bias or c.bias_qkv)
    return found + block_rules(c, [("attention.to_out", "self_attn.o_proj")], c.bias)


def embedding_rules(c: DecoderConfig, name: str) -> list[Rule]:
    """The embedding, and the head, which is the same tensor if it is tied."""
    if c.tied:
        return [Rule(("embed.weight", "head.weight"), (name,), lambda x: [x, x], lambda embed, head: [embed])]
    return [rename("embed.weight", name), rename("head.weight", "lm_head.weight")]


def balance_rules(c: DecoderConfig) -> list[Rule]:
    """The biases that balance our routers without a loss, which foreign routers lack; they start at 0."""
    names = [f"blocks.{i}.feedforward.router.bias" for i in range(c.n_layers)]
    return [Rule((name,), (), lambda: [torch.zeros(c.n_experts)], refuse_balance) for name in names]


def refuse_balance(bias: Tensor) -> list[Tensor]:
    """Nothing to export; raises ValueError for a bias that is not 0."""
    if bias.any():
        raise ValueError("model.balance_rate: expected routers without a learned bias to be exported; train without it")
    return []


def block_rules(c: DecoderConfig, names: Sequence[tuple[str, str]], bias: bool, suffix: str = ".weight") -> list[Rule]:
    """Names of parts in every block: weights, and biases where there are any."""
    ends = [suffix, ".bias"] if bias else [suffix]
    return [
        rename(f"blocks.{i}.{ours}{end}", f"model.layers.{i}.{theirs}{end}")
        for i in range(c.n_layers)
        for ours, theirs in names
        for end in ends
    ]


def split_transposed(x: Tensor) -> list[Tensor]:
    """GPT-2's joined and transposed projection (D, 3 D) -> three matrices (D, D)."""
    return [part.T.contiguous() for part in x.chunk(3, dim=1)]


def join_transposed(*parts: Tensor) -> list[Tensor]:
    """The inverse of `split_transposed`."""
    return [torch.cat([part.T for part in parts], dim=1).contiguous()]


def split_bias(x: Tensor) -> list[Tensor]:
    """GPT-2's joined bias (3 D,) -> three biases (D,)."""
    return [part.contiguous() for part in x.chunk(3)]


def join_bias(*parts: Tensor) -> list[Tensor]:
    """The inverse of `split_bias`."""
    return [torch.cat(parts)]


def split_gate(x: Tensor) -> list[Tensor]:
    """gpt-oss's gate and up (E, D, 2 F), whose columns alternate -> two tensors (E, F, D)."""
    return [x[..., first::2].mT.contiguous() for first in (0, 1)]


def join_gate(gate: Tensor, up: Tensor) -> list[Tensor]:
    """The inverse of `split_gate`."""
    return [torch.stack([gate.mT, up.mT], dim=-1).flatten(-2).contiguous()]


def split_gate_bias(x: Tensor) -> list[Tensor]:
    """gpt-oss's biases of gate and up (E, 2 F), which alternate -> two vectors (E F,)."""
    return [x[:, first::2].flatten().contiguous() for first in (0, 1)]


def join_gate_bias(c: DecoderConfig) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """The inverse of `split_gate_bias`."""

    def join(gate: Tensor, up: Tensor) -> list[Tensor]:
        return [torch.stack([gate, up], dim=-1).view(c.n_experts, -1)]

    return join


def swap(x: Tensor) -> list[Tensor]:
    """(E, in, out) <-> (E, out, in)."""
    return [x.mT.contiguous()]


def flat(x: Tensor) -> list[Tensor]:
    """Biases (E, F) -> (E F,)."""
    return [x.flatten()]


def unflat(n: int) -> Callable[[Tensor], list[Tensor]]:
    """The inverse of `flat`, for `n` experts."""
    return lambda x: [x.view(n, -1)]

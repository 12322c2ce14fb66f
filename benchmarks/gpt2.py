"""The GPT-2 of transformers with the weights of one of our decoders, as a reference to generate, search and train."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from minillm.models.decoder import Decoder, DecoderConfig

GPT2 = DecoderConfig(positions="learned", norm="layernorm", feedforward="gelu", bias=True)  # 4 layers x 128, 4 heads
Prompts = Sequence[Sequence[int]]


def twin(model: Decoder) -> nn.Module:
    """A `GPT2LMHeadModel` in eval mode with the weights of a decoder like GPT2; its matrices are transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    sizes = {"n_positions": c.context_length, "n_embd": c.d_model, "n_layer": c.n_layers, "n_head": c.n_heads}
    sizes |= {"vocab_size": model.vocab_size, "layer_norm_epsilon": c.norm_eps, "bos_token_id": 0, "eos_token_id": 0}
    sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), c.dropout)
    other = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    mine = model.state_dict()
    names = {"wte.weight": "embed.weight", "wpe.weight": "embed_positions.table.weight"}
    names |= {"ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}
    weights = {f"transformer.{name}": mine[my_name] for name, my_name in names.items()}
    for i in range(c.n_layers):
        a, b = f"blocks.{i}.", f"transformer.h.{i}."
        for kind in ("weight", "bias"):
            weights[f"{b}ln_1.{kind}"], weights[f"{b}ln_2.{kind}"] = (
                mine[f"{a}norm_1.{kind}"],
                mine[f"{a}norm_2.{kind}"],
            )
            weights[f"{b}attn.c_attn.{kind}"] = torch.cat(
                [mine[f"{a}attention.{to}.{kind}"] for to in ("to_q", "to_k", "to_v")]
            ).t()
            weights[f"{b}attn.c_proj.{kind}"] = mine[f"{a}attention.to_out.{kind}"].t()
            weights[f"{b}mlp.c_fc.{kind}"] = mine[f"{a}feedforward.up.{kind}"].t()
            weights[f"{b}mlp.c_proj.{kind}"] = mine[f"{a}feedforward.down.{kind}"].t()
    other.load_state_dict(weights | {"lm_head.weight": mine["head.weight"]}, strict=True)
    return other


@torch.inference_mode()
def write(other: nn.Module, prompts: Prompts, n_new: int, **how: object) -> list[list[int]]:
    """The new tokens of transformers' `generate` after left-padded prompts: greedy unless `how` says otherwise."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[*[0] * (width - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[*[0] * (width - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    how = {"max_new_tokens": n_new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | how
    return other.generate(tokens, attention_mask=mask, **how)[:, width:].tolist()


def check_equal(models: Iterable[nn.Module], roads: dict[str, Callable[[], object]]) -> None:
    """Exit if ways write different tokens in float64, where near ties cannot matter; then return to float32."""
    models = list(models)
    for model in models:
        model.double()
    written = [road() for road in roads.values()]
    if any(tokens != written[0] for tokens in written):
        raise SystemExit(f"{', '.join(roads)}: they write different tokens in float64, so their times mean nothing")
    for model in models:
        model.float()

"""The decoder equals the GPT-2 and Llama of transformers: same weights, same logits."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

from minillm.models.decoder import Decoder, DecoderConfig
from tests.tiny import assert_equal

VOCAB = 41


def randomized(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Set all weights to random float64 numbers, biases and norms included; outputs of layers have size about 1."""
    torch.manual_seed(seed)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / (parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 2)
    return model


def copy(mine: Decoder, pairs: dict[str, torch.Tensor]) -> Decoder:
    """Load all weights; none is missing or left over."""
    if mine.config.tied:
        pairs["head.weight"] = pairs["embed.weight"]
    mine.double().eval().load_state_dict(pairs, strict=True)
    return mine


def weights_of_gpt_2(theirs: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """The weights of a GPT-2, by the names of the decoder."""
    weights = {
        "embed.weight": theirs.transformer.wte.weight,
        "embed_positions.table.weight": theirs.transformer.wpe.weight,
    }
    norms = {"norm": theirs.transformer.ln_f}
    linears = {}  # subtle: GPT-2 stores its matrices transposed
    for i, block in enumerate(theirs.transformer.h):
        norms |= {f"blocks.{i}.norm_1": block.ln_1, f"blocks.{i}.norm_2": block.ln_2}
        linears |= {f"blocks.{i}.attention.to_out": block.attn.c_proj}
        linears |= {f"blocks.{i}.feedforward.up": block.mlp.c_fc, f"blocks.{i}.feedforward.down": block.mlp.c_proj}
        for j, to in enumerate(("to_q", "to_k", "to_v")):
            weights[f"blocks.{i}.attention.{to}.weight"] = block.attn.c_attn.weight.chunk(3, dim=1)[j].T
            weights[f"blocks.{i}.attention.{to}.bias"] = block.attn.c_attn.bias.chunk(3)[j]
    for name, module in norms.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    for name, module in linears.items():
        weights |= {f"{name}.weight": module.weight.T, f"{name}.bias": module.bias}
    return weights


@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_gpt_2_gives_the_same_logits_and_gradients(eps):
    torch.manual_seed(0)
    theirs = GPT2Config(
        vocab_size=VOCAB, n_positions=19, n_embd=35, n_layer=3, n_head=5, n_inner=53, layer_norm_epsilon=eps
    )
    theirs = randomized(GPT2LMHeadModel(theirs))
    gpt_2 = {"positions": "learned", "norm": "layernorm", "feedforward": "gelu", "bias": True, "tied": True}
    c = DecoderConfig(n_layers=3, d_model=35, n_heads=5, d_ff=53, context_length=19, norm_eps=eps, **gpt_2)
    mine = copy(Decoder(c, VOCAB), weights_of_gpt_2(theirs))

    text = torch.randint(VOCAB, (3, 17))
    logits = mine(text)[0], theirs(text).logits
    assert_equal(*logits)
    for x in logits:
        x.softmax(-1)[..., 5].sum().backward()
    assert_equal(mine.embed.weight.grad, theirs.transformer.wte.weight.grad)
    assert_equal(mine.blocks[0].feedforward.up.weight.grad, theirs.transformer.h[0].mlp.c_fc.weight.grad.T)


LLAMAS = {
    "even sizes": {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_ff": 64, "tied": False},
    "odd sizes": {
        "d_model": 35,
        "n_heads": 5,
        "n_kv_heads": 1,
        "d_head": 6,
        "d_ff": 43,
        "rotary_base": 523.0,
        "norm_eps": 1e-2,
    },
    "every head its own keys": {
        "d_model": 21,
        "n_heads": 3,
        "n_kv_heads": 3,
        "d_head": 14,
        "d_ff": 31,
        "tied": False,
        "norm_eps": 1e-6,
    },
}


@pytest.mark.parametrize("sizes", LLAMAS.values(), ids=LLAMAS)
def test_llama_gives_the_same_logits(sizes):
    c = DecoderConfig(n_layers=3, context_length=53, feedforward="swiglu", **sizes)
    theirs = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=c.d_model,
        intermediate_size=c.d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        head_dim=c.d_head,
        max_position_embeddings=c.context_length,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tied,
        rope_parameters={"rope_type": "default", "rope_theta": c.rotary_base},
    )
    theirs = randomized(LlamaForCausalLM(theirs))
    weights = {"embed.weight": theirs.model.embed_tokens.weight, "norm.weight": theirs.model.norm.weight}
    weights |= {"head.weight": theirs.lm_head.weight}
    for i, layer in enumerate(theirs.model.layers):
        modules = {"norm_1": layer.input_layernorm, "norm_2": layer.post_attention_layernorm}
        modules |= {f"attention.to_{x}": getattr(layer.self_attn, f"{x}_proj") for x in "qkv"}
        modules |= {"attention.to_out": layer.self_attn.o_proj}
        modules |= {f"feedforward.{x}": getattr(layer.mlp, f"{x}_proj") for x in ("gate", "up", "down")}
        weights |= {f"blocks.{i}.{name}.weight": module.weight for name, module in modules.items()}
    mine = copy(Decoder(c, VOCAB), weights)

    text = torch.randint(VOCAB, (3, 47))
    logits, expected = mine(text)[0], theirs(text).logits.double()
    assert expected.std() > 0.3
    # subtle: transformers computes norms and rotary angles in float32 for any weights, so only float32 digits agree
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_heads", [4, 6])
def test_mpt_with_its_biased_scores_gives_the_same_logits(n_heads):
    theirs = MptConfig(
        d_model=12 * n_heads, n_heads=n_heads, n_layers=3, max_seq_len=53, vocab_size=VOCAB, layer_norm_epsilon=1e-3
    )
    theirs = randomized(MptForCausalLM(theirs))
    weights = {"embed.weight": theirs.transformer.wte.weight, "norm.weight": theirs.transformer.norm_f.weight}
    for i, block in enumerate(theirs.transformer.blocks):
        block.ffn.act = torch.nn.GELU(approximate="tanh")
        modules = {"norm_1": block.norm_1, "norm_2": block.norm_2, "attention.to_out": block.attn.out_proj}
        modules |= {"feedforward.up": block.ffn.up_proj, "feedforward.down": block.ffn.down_proj}
        weights |= {f"blocks.{i}.{name}.weight": module.weight for name, module in modules.items()}
        for to, weight in zip(("to_q", "to_k", "to_v"), block.attn.Wqkv.weight.chunk(3), strict=True):
            weights[f"blocks.{i}.attention.{to}.weight"] = weight
    mpt = {"positions": "alibi", "norm": "layernorm", "feedforward": "gelu", "tied": True}
    c = DecoderConfig(n_layers=3, d_model=12 * n_heads, n_heads=n_heads, context_length=53, norm_eps=1e-3, **mpt)
    mine = copy(Decoder(c, VOCAB), weights)

    text = torch.randint(VOCAB, (3, 47))
    logits, expected = mine(text)[0], theirs(text).logits.double()
    assert expected.std() > 0.3
    # subtle: transformers takes softmax and slopes in float32 whatever the weights are
    torch.testing.assert_close(logits, expected, rtol=0, atol=3e-6)
